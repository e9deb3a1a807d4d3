//! Limits of a parsed document: depth, aliases, directives, root fields, repetition, and its size with
//! all fragments expanded. One traversal, which stops at the first limit that is exceeded.

use std::collections::{HashMap, HashSet};

use async_graphql::{Name, Positioned, Variables};
use async_graphql_parser::types::{
    Directive, ExecutableDocument, Field, FragmentDefinition, OperationDefinition, Selection, SelectionSet,
};

use async_graphql_value::Value;

use crate::error::{Code, Error};

/// Deepest nesting of fields, leaves included.
pub const DEPTH_MAX: usize = 12;
/// Deepest nesting of introspection fields. The standard introspection query has depth 15.
pub const INTROSPECTION_DEPTH_MAX: usize = 20;
/// Deepest nesting of lists of fields or types in introspection. Each level multiplies the answer by the
/// size of the schema.
pub const INTROSPECTION_LISTS_MAX: usize = 2;
/// Most introspection fields with all fragments expanded, since each can be answered for every field of
/// the schema. The standard introspection query has about 200.
pub const INTROSPECTION_FIELDS_MAX: usize = 1_000;
/// Most aliases of an operation.
pub const ALIASES_MAX: usize = 30;
/// Most directives of an operation, at any location.
pub const DIRECTIVES_MAX: usize = 50;
/// Most root fields of an operation.
pub const ROOT_FIELDS_MAX: usize = 20;
/// Most repetitions of one response name in a selection set.
pub const REPEATS_MAX: usize = 50;
/// Most entities that a federation gateway may request in one `_entities` field.
pub const ENTITIES_MAX: usize = 100;
/// Most selections with all fragments expanded, and the highest cost of a request.
pub const COMPLEXITY_MAX: usize = 20_000;
const SELECTIONS: &str = "selections, with its fragments expanded";
/// Deepest nesting of fragments, inline fragments included.
const NESTING_MAX: usize = 50;
/// Deepest level that the traversal can reach before it rejects the document.
const TRAVERSAL_DEPTH_MAX: usize = NESTING_MAX + INTROSPECTION_DEPTH_MAX;

/// Facts about an operation that the traversal collects.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Measurements {
    /// Fragments that the operation uses, directly or through other fragments.
    pub fragments: HashSet<Name>,
    /// Most entities of one `_entities` field. The cost of the operation counts for each.
    pub entities: usize,
    /// Variables that hold lists of entities, whose length is known only with the request.
    pub entity_lists: Vec<Name>,
}

/// Checks every operation of a document against the limits. Returns the measurements of the named
/// operation, or of the only one if no name is given.
///
/// # Errors
/// LIMIT_EXCEEDED; GRAPHQL_VALIDATION_FAILED for a cycle of fragments, an unused fragment, and
/// introspection while it is off.
pub fn check(
    document: &ExecutableDocument,
    name: Option<&str>,
    introspection: bool,
) -> Result<Measurements, Error> {
    let mut traversal = Traversal::new(&document.fragments, introspection);
    let mut measurements = Measurements::default();
    let mut used = HashSet::new();
    for (operation_name, operation) in document.operations.iter() {
        traversal.operation(&operation.node)?;
        let measured = std::mem::take(&mut traversal.measurements);
        used.extend(measured.fragments.iter().cloned());
        if name.is_none() || operation_name.map(Name::as_str) == name {
            measurements = measured;
        }
    }
    match document.fragments.keys().find(|fragment| !used.contains(*fragment)) {
        Some(fragment) => {
            Err(Error::new(Code::GraphqlValidationFailed, format!("fragment \"{fragment}\" is never used")))
        }
        None => Ok(measurements),
    }
}

struct Traversal<'a> {
    fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
    introspection: bool,
    selections: usize,
    introspected: usize,
    aliases: usize,
    directives: usize,
    root_fields: usize,
    measurements: Measurements,
    /// Fragments that are being traversed, outermost first: a repetition is a cycle.
    enclosing: Vec<&'a Name>,
    /// Expanded sizes of the fragments measured so far.
    sizes: HashMap<&'a Name, usize>,
}

/// Location of a selection in the expanded document.
#[derive(Clone, Copy, Default)]
struct Location {
    depth: usize,
    fragment_nesting: usize,
    /// True below `__schema` and `__type`.
    in_introspection: bool,
    introspection_lists: usize,
}

/// Repetitions of each response name in one selection set with its fragments expanded.
type Repetitions<'a> = HashMap<&'a str, usize>;

impl<'a> Traversal<'a> {
    fn new(fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>, introspection: bool) -> Self {
        Self {
            fragments,
            introspection,
            selections: 0,
            introspected: 0,
            aliases: 0,
            directives: 0,
            root_fields: 0,
            measurements: Measurements::default(),
            enclosing: Vec::new(),
            sizes: HashMap::new(),
        }
    }

    /// Checks one operation. Limits hold per operation, except the number of selections, which bounds
    /// this traversal.
    fn operation(&mut self, operation: &'a OperationDefinition) -> Result<(), Error> {
        self.aliases = 0;
        self.directives = 0;
        self.root_fields = 0;
        self.measurements.entities = 1;
        self.directives(&operation.directives)?;
        for variable in &operation.variable_definitions {
            self.directives(&variable.node.directives)?;
        }
        let expanded = self.expanded_size(&operation.selection_set.node, 0);
        at_most(COMPLEXITY_MAX, self.selections.saturating_add(expanded), SELECTIONS)?;
        self.set(&operation.selection_set.node, Location::default(), &mut Repetitions::new())
    }

    /// Computes the number of selections with all fragments expanded, without expanding them. Levels
    /// below the traversal's limit count nothing: the traversal rejects the document when it reaches
    /// them.
    fn expanded_size(&mut self, set: &'a SelectionSet, depth: usize) -> usize {
        if depth > TRAVERSAL_DEPTH_MAX {
            return 0;
        }
        let mut sum: usize = 0;
        for selection in &set.items {
            let below = match &selection.node {
                Selection::Field(field) => self.expanded_size(&field.node.selection_set.node, depth + 1),
                Selection::InlineFragment(fragment) => {
                    self.expanded_size(&fragment.node.selection_set.node, depth + 1)
                }
                Selection::FragmentSpread(spread) => {
                    self.fragment_size(&spread.node.fragment_name.node, depth + 1)
                }
            };
            sum = sum.saturating_add(1).saturating_add(below);
        }
        sum
    }

    fn fragment_size(&mut self, name: &'a Name, depth: usize) -> usize {
        if let Some(known) = self.sizes.get(name) {
            return *known;
        }
        let Some(fragment) = self.fragments.get(name) else { return 0 };
        // Ends the recursion for a fragment that contains itself; the traversal rejects it later.
        self.sizes.insert(name, 0);
        let size = self.expanded_size(&fragment.node.selection_set.node, depth);
        self.sizes.insert(name, size);
        size
    }

    fn set(
        &mut self,
        set: &'a SelectionSet,
        location: Location,
        repetitions: &mut Repetitions<'a>,
    ) -> Result<(), Error> {
        for selection in &set.items {
            self.selections += 1;
            at_most(COMPLEXITY_MAX, self.selections, SELECTIONS)?;
            match &selection.node {
                Selection::Field(field) => self.field(&field.node, location, repetitions)?,
                Selection::InlineFragment(fragment) => {
                    self.directives(&fragment.node.directives)?;
                    self.set(&fragment.node.selection_set.node, nested(location)?, repetitions)?;
                }
                Selection::FragmentSpread(spread) => {
                    self.directives(&spread.node.directives)?;
                    self.spread(&spread.node.fragment_name.node, nested(location)?, repetitions)?;
                }
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &'a Field,
        location: Location,
        repetitions: &mut Repetitions<'a>,
    ) -> Result<(), Error> {
        let name = field.name.node.as_str();
        self.directives(&field.directives)?;
        if location.depth == 0 {
            self.root_fields += 1;
            at_most(ROOT_FIELDS_MAX, self.root_fields, "root fields")?;
            self.root_field(field)?;
        }
        self.aliases += usize::from(field.alias.is_some());
        at_most(ALIASES_MAX, self.aliases, "aliases")?;
        let count = repetitions.entry(field.response_key().node.as_str()).or_default();
        *count += 1;
        at_most(REPEATS_MAX, *count, "repetitions of one field")?;

        let in_introspection =
            location.in_introspection || (location.depth == 0 && matches!(name, "__schema" | "__type"));
        self.introspected += usize::from(in_introspection);
        at_most(
            INTROSPECTION_FIELDS_MAX,
            self.introspected,
            "introspection fields, with its fragments expanded",
        )?;
        let depth = location.depth + 1;
        let depth_max = if in_introspection { INTROSPECTION_DEPTH_MAX } else { DEPTH_MAX };
        at_most(depth_max, depth, if in_introspection { "levels of introspection" } else { "levels" })?;
        let multiplies =
            in_introspection && matches!(name, "fields" | "inputFields" | "interfaces" | "possibleTypes");
        let introspection_lists = location.introspection_lists + usize::from(multiplies);
        at_most(INTROSPECTION_LISTS_MAX, introspection_lists, "nested lists in introspection")?;
        let below = Location { depth, in_introspection, introspection_lists, ..location };
        self.set(&field.selection_set.node, below, &mut Repetitions::new())
    }

    fn root_field(&mut self, field: &Field) -> Result<(), Error> {
        match field.name.node.as_str() {
            "__schema" | "__type" | "_service" if !self.introspection => {
                Err(Error::new(Code::GraphqlValidationFailed, "introspection is off"))
            }
            "_entities" => {
                let requested = match field.get_argument("representations").map(|value| &value.node) {
                    Some(Value::List(representations)) => representations.len(),
                    // The length of a variable's list is known only with its value: assume the maximum.
                    Some(Value::Variable(name)) => {
                        self.measurements.entity_lists.push(name.clone());
                        ENTITIES_MAX
                    }
                    _ => ENTITIES_MAX,
                };
                at_most(ENTITIES_MAX, requested, "entities")?;
                self.measurements.entities = self.measurements.entities.max(requested);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn spread(
        &mut self,
        name: &'a Name,
        location: Location,
        repetitions: &mut Repetitions<'a>,
    ) -> Result<(), Error> {
        // Validation rejects unknown fragments.
        let Some(fragment) = self.fragments.get(name) else { return Ok(()) };
        if self.enclosing.contains(&name) {
            let message = format!("fragment \"{name}\" contains itself");
            return Err(Error::new(Code::GraphqlValidationFailed, message));
        }
        self.measurements.fragments.insert(name.clone());
        self.enclosing.push(name);
        self.directives(&fragment.node.directives)?;
        self.set(&fragment.node.selection_set.node, location, repetitions)?;
        self.enclosing.pop();
        Ok(())
    }

    fn directives(&mut self, directives: &[Positioned<Directive>]) -> Result<(), Error> {
        self.directives += directives.len();
        at_most(DIRECTIVES_MAX, self.directives, "directives")
    }
}

/// Checks the lists of entities in the values of variables.
///
/// # Errors
/// LIMIT_EXCEEDED.
pub fn check_entities(lists: &[Name], variables: &Variables) -> Result<(), Error> {
    lists.iter().try_for_each(|name| match variables.get(name) {
        Some(async_graphql::Value::List(entities)) => at_most(ENTITIES_MAX, entities.len(), "entities"),
        _ => Ok(()),
    })
}

fn nested(location: Location) -> Result<Location, Error> {
    let fragment_nesting = location.fragment_nesting + 1;
    at_most(NESTING_MAX, fragment_nesting, "nested fragments")?;
    Ok(Location { fragment_nesting, ..location })
}

fn at_most(max: usize, count: usize, of: &str) -> Result<(), Error> {
    if count <= max {
        return Ok(());
    }
    Err(Error::new(Code::LimitExceeded, format!("the operation has more than {max} {of}")))
}

#[cfg(test)]
mod tests {
    use async_graphql_parser::parse_query;

    use super::*;

    fn checked(text: &str) -> Result<Measurements, Error> {
        check(&parse_query(text).expect("a document"), None, true)
    }

    #[track_caller]
    fn passes(text: &str) {
        assert_eq!(checked(text).map(drop), Ok(()), "{text}");
    }

    #[track_caller]
    fn exceeds(text: &str, limit: &str) {
        let error = checked(text).expect_err(text);
        assert_eq!(error.code(), Code::LimitExceeded);
        assert!(error.message().ends_with(limit), "{error}");
    }

    fn times(count: usize, field: impl Fn(usize) -> String) -> String {
        (0..count).map(field).collect::<Vec<_>>().join(" ")
    }

    fn deep(count: usize, field: &str) -> String {
        format!("{}{}", format!("{{ {field} ").repeat(count), "}".repeat(count))
    }

    #[test]
    fn each_limit_passes_at_its_maximum_and_rejects_above() {
        passes(&deep(DEPTH_MAX, "a"));
        exceeds(&deep(DEPTH_MAX + 1, "a"), "levels");

        let introspection = |depth| format!("{{ __type(name: \"User\") {} }}", deep(depth - 1, "ofType"));
        passes(&introspection(INTROSPECTION_DEPTH_MAX));
        exceeds(&introspection(INTROSPECTION_DEPTH_MAX + 1), "levels of introspection");

        let lists =
            |lists| format!("{{ __schema {} }}", deep(lists, "types { fields { type { name } } } fields"));
        passes(&lists(INTROSPECTION_LISTS_MAX));
        exceeds(&lists(INTROSPECTION_LISTS_MAX + 1), "nested lists in introspection");

        let fields = |count| {
            format!("{{ __schema {{ types {{ {} }} }} }}", times(count - 2, |n| format!("f{}", n / 2)))
        };
        passes(&fields(INTROSPECTION_FIELDS_MAX));
        exceeds(&fields(INTROSPECTION_FIELDS_MAX + 1), "introspection fields, with its fragments expanded");

        let aliases = |count| format!("{{ me {{ {} }} }}", times(count, |n| format!("a{n}: id")));
        passes(&aliases(ALIASES_MAX));
        exceeds(&aliases(ALIASES_MAX + 1), "aliases");

        let directives =
            |count| format!("{{ me {} {{ id }} }}", times(count, |_| "@include(if: true)".to_owned()));
        passes(&directives(DIRECTIVES_MAX));
        exceeds(&directives(DIRECTIVES_MAX + 1), "directives");

        let roots = |count| format!("{{ {} }}", times(count, |_| "me".to_owned()));
        passes(&roots(ROOT_FIELDS_MAX));
        exceeds(&roots(ROOT_FIELDS_MAX + 1), "root fields");

        let repeats = |count| format!("{{ me {{ {} }} }}", times(count, |_| "id".to_owned()));
        passes(&repeats(REPEATS_MAX));
        exceeds(&repeats(REPEATS_MAX + 1), "repetitions of one field");

        let nested = |count| format!("{{ {} me {} }}", "... { ".repeat(count), "}".repeat(count));
        passes(&nested(NESTING_MAX));
        exceeds(&nested(NESTING_MAX + 1), "nested fragments");

        let entities = |count| {
            format!("{{ _entities(representations: [{}]) {{ a }} }}", times(count, |_| "1".to_owned()))
        };
        assert_eq!(checked(&entities(7)).expect("passes").entities, 7);
        passes(&entities(ENTITIES_MAX));
        exceeds(&entities(ENTITIES_MAX + 1), "entities");
    }

    #[test]
    fn fragments_count_at_each_spread() {
        let spread =
            "{ me { ...A ...A ...A ...A } } fragment A on User { a: id b: id c: id d: id e: id f: id g: id }";
        passes(spread);
        exceeds(&spread.replace("g: id", "g: id h: id"), "aliases");
        exceeds(
            &format!("{{ ...A }} fragment A on Query {{ {} }}", times(21, |n| format!("f{n}"))),
            "root fields",
        );
        exceeds(&format!("{{ a {{ ...A }} }} fragment A on T {}", deep(DEPTH_MAX, "a")), "levels");
    }

    #[test]
    fn a_fragment_bomb_is_rejected_without_being_expanded() {
        let spreads = |next: usize| times(10, |n| format!("x{n} {{ ...F{next} }}"));
        let fragments = times(10, |n| format!("fragment F{n} on T {{ {} }}", spreads(n + 1)));
        let text = format!("{{ a {{ ...F0 }} }} {fragments} fragment F10 on T {{ a }}");
        exceeds(&text, "selections, with its fragments expanded");
        let flat =
            times(10, |n| format!("fragment F{n} on T {{ {} }}", times(10, |_| format!("...F{}", n + 1))));
        exceeds(
            &format!("{{ a {{ ...F0 }} }} {flat} fragment F10 on T {{ a }}"),
            "selections, with its fragments expanded",
        );
        let twice = |n: usize| format!("fragment F{n} on T {{ x {{ ...F{0} }} y {{ ...F{0} }} }}", n + 1);
        let deep = format!("{{ a {{ ...F0 }} }} {} fragment F999 on T {{ a }}", times(999, twice));
        assert_eq!(
            checked(&deep).expect_err("2^999").code(),
            Code::LimitExceeded,
            "its size is computed without expanding it"
        );
    }

    #[test]
    fn cycles_and_unused_fragments_are_invalid() {
        for text in [
            "{ ...A } fragment A on Query { ...A }",
            "{ ...A } fragment A on Query { me { ...B } } fragment B on User { ... { ...A } }",
            "{ me { id } } fragment A on User { id }",
        ] {
            assert_eq!(checked(text).expect_err(text).code(), Code::GraphqlValidationFailed);
        }
    }

    #[test]
    fn operations_of_one_document_have_separate_limits() {
        let operation = |name: &str| {
            format!("query {name} {{ {} }}", times(20, |n| format!("a{n}: me {{ ...{name}F }}")))
        };
        let fragment = |name: &str| format!("fragment {name}F on User {{ id }}");
        let text = [operation("A"), operation("B"), fragment("A"), fragment("B")].join(" ");
        let document = parse_query(text).expect("a document");
        let measurements = check(&document, Some("B"), true).expect("passes");
        assert_eq!(measurements.fragments, HashSet::from([Name::new("BF")]));
        let many = times(11, |n| format!("query Q{n} {{ ...F }}"));
        let large = times(19, |n| format!("a{n} {{ {} }}", times(99, |m| format!("f{m}"))));
        exceeds(
            &format!("{many} fragment F on Query {{ {large} }}"),
            "selections, with its fragments expanded",
        );
    }

    #[test]
    fn introspection_is_rejected_while_it_is_off() {
        for text in [
            "{ __schema { types { name } } }",
            "{ ... { __type(name: \"A\") { name } } }",
            "{ _service { sdl } }",
        ] {
            passes(text);
            let document = parse_query(text).expect("a document");
            let error = check(&document, None, false).expect_err(text);
            assert_eq!(error.code(), Code::GraphqlValidationFailed);
        }
        passes("{ __typename }");
    }

    #[test]
    fn the_standard_introspection_query_passes() {
        let of_type = format!("{}kind{}", "kind name ofType { ".repeat(9), " }".repeat(9));
        passes(&format!(
            "{{ __schema {{ queryType {{ name }} types {{ ...T }} directives {{ name args {{ ...V }} }} }} }}
             fragment T on __Type {{ kind name
               fields(includeDeprecated: true) {{ name args {{ ...V }} type {{ ...R }} }}
               inputFields {{ ...V }} interfaces {{ ...R }} enumValues {{ name }} possibleTypes {{ ...R }} }}
             fragment V on __InputValue {{ name type {{ ...R }} defaultValue }}
             fragment R on __Type {{ {of_type} }}"
        ));
    }
}
