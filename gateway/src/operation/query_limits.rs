//! The bounds of a parsed document: depth, aliases, directives, root fields, repetition, and how large it becomes when its
//! fragments are laid out. One walk, that stops at the first bound it meets.

use std::collections::{HashMap, HashSet};

use async_graphql::{Name, Positioned, Variables};
use async_graphql_parser::types::{
    Directive, ExecutableDocument, Field, FragmentDefinition, OperationDefinition, Selection, SelectionSet,
};

use async_graphql_value::Value;

use crate::error::{Code, Error};

/// Fields inside each other, leaves included.
pub const DEPTH_MAX: usize = 12;
/// The same for introspection; the usual query has 15.
pub const INTROSPECTION_DEPTH_MAX: usize = 20;
/// Lists of fields or types inside each other in introspection: each multiplies the answer by the size of the schema.
pub const INTROSPECTION_LISTS_MAX: usize = 2;
/// Fields below introspection when all fragments are laid out: each may be answered for every field of the schema. The usual
/// query has some 200.
pub const INTROSPECTION_FIELDS_MAX: usize = 1_000;
/// Fields under another name.
pub const ALIASES_MAX: usize = 30;
/// Directives on anything.
pub const DIRECTIVES_MAX: usize = 50;
/// Fields of the root.
pub const ROOT_FIELDS_MAX: usize = 20;
/// How often one selection may name the same field.
pub const REPEATS_MAX: usize = 50;
/// Entities that a gateway of a federation may ask for at once.
pub const ENTITIES_MAX: usize = 100;
/// Selections when all fragments are laid out; also what an operation may cost.
pub const COMPLEXITY_MAX: usize = 20_000;
const SELECTIONS: &str = "selections, its fragments laid out";
/// Fragments inside each other, inline ones included.
const NESTING_MAX: usize = 50;
/// Deeper than the walk goes.
const DEEPEST: usize = NESTING_MAX + INTROSPECTION_DEPTH_MAX;

/// What is found out about an operation on the way.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// The fragments that it reaches.
    pub fragments: HashSet<Name>,
    /// How many entities it asks for at once; its cost counts for each.
    pub entities: usize,
    /// The variables that hold lists of entities.
    pub entity_lists: Vec<Name>,
}

/// Checks every operation of a document against the bounds, and measures the one of this name (the only one without).
///
/// # Errors
/// LIMIT_EXCEEDED; GRAPHQL_VALIDATION_FAILED for a cycle of fragments, a fragment that nothing uses, and for introspection
/// where it is off.
pub fn check(
    document: &ExecutableDocument,
    name: Option<&str>,
    introspection: bool,
) -> Result<Measure, Error> {
    let mut walk = Walk::new(&document.fragments, introspection);
    let (mut measure, mut used) = (Measure::default(), HashSet::new());
    for (operation_name, operation) in document.operations.iter() {
        walk.operation(&operation.node)?;
        let measured = std::mem::take(&mut walk.measure);
        used.extend(measured.fragments.iter().cloned());
        if name.is_none() || operation_name.map(Name::as_str) == name {
            measure = measured;
        }
    }
    match document.fragments.keys().find(|fragment| !used.contains(*fragment)) {
        Some(fragment) => {
            Err(Error::new(Code::GraphqlValidationFailed, format!("fragment \"{fragment}\" is never used")))
        }
        None => Ok(measure),
    }
}

struct Walk<'a> {
    fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
    introspection: bool,
    selections: usize,
    introspected: usize,
    aliases: usize,
    directives: usize,
    root_fields: usize,
    measure: Measure,
    /// The fragments that the walk is in.
    inside: Vec<&'a Name>,
    /// How large fragments are that have been looked at.
    sizes: HashMap<&'a Name, usize>,
}

/// Where the walk is.
#[derive(Clone, Copy, Default)]
struct Place {
    depth: usize,
    nesting: usize,
    /// Whether it is below `__schema` or `__type`.
    introspects: bool,
    lists: usize,
}

/// How often each name stands in one selection, its fragments laid out.
type Seen<'a> = HashMap<&'a str, usize>;

impl<'a> Walk<'a> {
    fn new(fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>, introspection: bool) -> Self {
        Self {
            fragments,
            introspection,
            selections: 0,
            introspected: 0,
            aliases: 0,
            directives: 0,
            root_fields: 0,
            measure: Measure::default(),
            inside: Vec::new(),
            sizes: HashMap::new(),
        }
    }

    /// Each operation has the bounds for itself, but for the selections: those are what this walk costs.
    fn operation(&mut self, operation: &'a OperationDefinition) -> Result<(), Error> {
        (self.aliases, self.directives, self.root_fields) = (0, 0, 0);
        self.measure.entities = 1;
        self.directives(&operation.directives)?;
        for variable in &operation.variable_definitions {
            self.directives(&variable.node.directives)?;
        }
        let laid_out = self.laid_out(&operation.selection_set.node, 0);
        at_most(COMPLEXITY_MAX, self.selections.saturating_add(laid_out), SELECTIONS)?;
        self.set(&operation.selection_set.node, Place::default(), &mut Seen::new())
    }

    /// How many selections these are when the fragments are laid out, found without laying them out. What is too deep counts
    /// for nothing: the walk comes to it and refuses it.
    fn laid_out(&mut self, set: &'a SelectionSet, depth: usize) -> usize {
        if depth > DEEPEST {
            return 0;
        }
        let mut sum: usize = 0;
        for selection in &set.items {
            let below = match &selection.node {
                Selection::Field(field) => self.laid_out(&field.node.selection_set.node, depth + 1),
                Selection::InlineFragment(fragment) => {
                    self.laid_out(&fragment.node.selection_set.node, depth + 1)
                }
                Selection::FragmentSpread(spread) => self.size(&spread.node.fragment_name.node, depth + 1),
            };
            sum = sum.saturating_add(1).saturating_add(below);
        }
        sum
    }

    fn size(&mut self, name: &'a Name, depth: usize) -> usize {
        if let Some(known) = self.sizes.get(name) {
            return *known;
        }
        let Some(fragment) = self.fragments.get(name) else { return 0 };
        // One that contains itself finds this.
        self.sizes.insert(name, 0);
        let size = self.laid_out(&fragment.node.selection_set.node, depth);
        self.sizes.insert(name, size);
        size
    }

    fn set(&mut self, set: &'a SelectionSet, place: Place, seen: &mut Seen<'a>) -> Result<(), Error> {
        for selection in &set.items {
            self.selections += 1;
            at_most(COMPLEXITY_MAX, self.selections, SELECTIONS)?;
            match &selection.node {
                Selection::Field(field) => self.field(&field.node, place, seen)?,
                Selection::InlineFragment(fragment) => {
                    self.directives(&fragment.node.directives)?;
                    self.set(&fragment.node.selection_set.node, nested(place)?, seen)?;
                }
                Selection::FragmentSpread(spread) => {
                    self.directives(&spread.node.directives)?;
                    self.spread(&spread.node.fragment_name.node, nested(place)?, seen)?;
                }
            }
        }
        Ok(())
    }

    fn field(&mut self, field: &'a Field, place: Place, seen: &mut Seen<'a>) -> Result<(), Error> {
        let name = field.name.node.as_str();
        self.directives(&field.directives)?;
        if place.depth == 0 {
            self.root_fields += 1;
            at_most(ROOT_FIELDS_MAX, self.root_fields, "root fields")?;
            self.root_field(field)?;
        }
        self.aliases += usize::from(field.alias.is_some());
        at_most(ALIASES_MAX, self.aliases, "aliases")?;
        let repeats = seen.entry(field.response_key().node.as_str()).or_default();
        *repeats += 1;
        at_most(REPEATS_MAX, *repeats, "repetitions of one field")?;

        let introspects = place.introspects || (place.depth == 0 && matches!(name, "__schema" | "__type"));
        self.introspected += usize::from(introspects);
        at_most(
            INTROSPECTION_FIELDS_MAX,
            self.introspected,
            "fields of introspection, its fragments laid out",
        )?;
        let depth = place.depth + 1;
        let depth_max = if introspects { INTROSPECTION_DEPTH_MAX } else { DEPTH_MAX };
        at_most(depth_max, depth, if introspects { "levels of introspection" } else { "levels" })?;
        let multiplies =
            introspects && matches!(name, "fields" | "inputFields" | "interfaces" | "possibleTypes");
        let lists = place.lists + usize::from(multiplies);
        at_most(INTROSPECTION_LISTS_MAX, lists, "lists inside each other in introspection")?;
        let below = Place { depth, introspects, lists, nesting: place.nesting };
        self.set(&field.selection_set.node, below, &mut Seen::new())
    }

    fn root_field(&mut self, field: &Field) -> Result<(), Error> {
        match field.name.node.as_str() {
            "__schema" | "__type" | "_service" if !self.introspection => {
                Err(Error::new(Code::GraphqlValidationFailed, "introspection is off here"))
            }
            "_entities" => {
                let asked = match field.get_argument("representations").map(|value| &value.node) {
                    Some(Value::List(representations)) => representations.len(),
                    // In a variable: as many as may be; how many they are is known where its value is.
                    Some(Value::Variable(name)) => {
                        self.measure.entity_lists.push(name.clone());
                        ENTITIES_MAX
                    }
                    _ => ENTITIES_MAX,
                };
                at_most(ENTITIES_MAX, asked, "entities")?;
                self.measure.entities = self.measure.entities.max(asked);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn spread(&mut self, name: &'a Name, place: Place, seen: &mut Seen<'a>) -> Result<(), Error> {
        // An unknown fragment is the validation's to refuse.
        let Some(fragment) = self.fragments.get(name) else { return Ok(()) };
        if self.inside.contains(&name) {
            let message = format!("fragment \"{name}\" contains itself");
            return Err(Error::new(Code::GraphqlValidationFailed, message));
        }
        self.measure.fragments.insert(name.clone());
        self.inside.push(name);
        self.directives(&fragment.node.directives)?;
        self.set(&fragment.node.selection_set.node, place, seen)?;
        self.inside.pop();
        Ok(())
    }

    fn directives(&mut self, directives: &[Positioned<Directive>]) -> Result<(), Error> {
        self.directives += directives.len();
        at_most(DIRECTIVES_MAX, self.directives, "directives")
    }
}

/// Checks the lists of entities that come in variables.
///
/// # Errors
/// LIMIT_EXCEEDED.
pub fn entities(lists: &[Name], variables: &Variables) -> Result<(), Error> {
    lists.iter().try_for_each(|name| match variables.get(name) {
        Some(async_graphql::Value::List(entities)) => at_most(ENTITIES_MAX, entities.len(), "entities"),
        _ => Ok(()),
    })
}

fn nested(place: Place) -> Result<Place, Error> {
    let nesting = place.nesting + 1;
    at_most(NESTING_MAX, nesting, "fragments inside each other")?;
    Ok(Place { nesting, ..place })
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

    fn checked(text: &str) -> Result<Measure, Error> {
        check(&parse_query(text).expect("a document"), None, true)
    }

    #[track_caller]
    fn passes(text: &str) {
        assert_eq!(checked(text).map(drop), Ok(()), "{text}");
    }

    #[track_caller]
    fn exceeds(text: &str, what: &str) {
        let error = checked(text).expect_err(text);
        assert_eq!(error.code(), Code::LimitExceeded);
        assert!(error.message().ends_with(what), "{error}");
    }

    fn times(count: usize, field: impl Fn(usize) -> String) -> String {
        (0..count).map(field).collect::<Vec<_>>().join(" ")
    }

    fn deep(count: usize, field: &str) -> String {
        format!("{}{}", format!("{{ {field} ").repeat(count), "}".repeat(count))
    }

    #[test]
    fn each_bound_passes_at_its_edge_and_refuses_above() {
        passes(&deep(DEPTH_MAX, "a"));
        exceeds(&deep(DEPTH_MAX + 1, "a"), "levels");

        let introspection = |depth| format!("{{ __type(name: \"User\") {} }}", deep(depth - 1, "ofType"));
        passes(&introspection(INTROSPECTION_DEPTH_MAX));
        exceeds(&introspection(INTROSPECTION_DEPTH_MAX + 1), "levels of introspection");

        let lists =
            |lists| format!("{{ __schema {} }}", deep(lists, "types { fields { type { name } } } fields"));
        passes(&lists(INTROSPECTION_LISTS_MAX));
        exceeds(&lists(INTROSPECTION_LISTS_MAX + 1), "lists inside each other in introspection");

        let fields = |count| {
            format!("{{ __schema {{ types {{ {} }} }} }}", times(count - 2, |n| format!("f{}", n / 2)))
        };
        passes(&fields(INTROSPECTION_FIELDS_MAX));
        exceeds(&fields(INTROSPECTION_FIELDS_MAX + 1), "fields of introspection, its fragments laid out");

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
        exceeds(&nested(NESTING_MAX + 1), "fragments inside each other");

        let entities = |count| {
            format!("{{ _entities(representations: [{}]) {{ a }} }}", times(count, |_| "1".to_owned()))
        };
        assert_eq!(checked(&entities(7)).expect("passes").entities, 7);
        passes(&entities(ENTITIES_MAX));
        exceeds(&entities(ENTITIES_MAX + 1), "entities");
    }

    #[test]
    fn fragments_count_where_they_are_laid_out() {
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
    fn a_fragment_bomb_is_refused_without_being_laid_out() {
        let spreads = |next: usize| times(10, |n| format!("x{n} {{ ...F{next} }}"));
        let fragments = times(10, |n| format!("fragment F{n} on T {{ {} }}", spreads(n + 1)));
        let text = format!("{{ a {{ ...F0 }} }} {fragments} fragment F10 on T {{ a }}");
        exceeds(&text, "selections, its fragments laid out");
        let flat =
            times(10, |n| format!("fragment F{n} on T {{ {} }}", times(10, |_| format!("...F{}", n + 1))));
        exceeds(
            &format!("{{ a {{ ...F0 }} }} {flat} fragment F10 on T {{ a }}"),
            "selections, its fragments laid out",
        );
        let twice = |n: usize| format!("fragment F{n} on T {{ x {{ ...F{0} }} y {{ ...F{0} }} }}", n + 1);
        let deep = format!("{{ a {{ ...F0 }} }} {} fragment F999 on T {{ a }}", times(999, twice));
        assert_eq!(
            checked(&deep).expect_err("2^999").code(),
            Code::LimitExceeded,
            "it is not gone through either"
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
    fn operations_of_one_document_have_their_own_bounds() {
        let operation = |name: &str| {
            format!("query {name} {{ {} }}", times(20, |n| format!("a{n}: me {{ ...{name}F }}")))
        };
        let fragment = |name: &str| format!("fragment {name}F on User {{ id }}");
        let text = [operation("A"), operation("B"), fragment("A"), fragment("B")].join(" ");
        let document = parse_query(text).expect("a document");
        let measure = check(&document, Some("B"), true).expect("passes");
        assert_eq!(measure.fragments, HashSet::from([Name::new("BF")]));
        let many = times(11, |n| format!("query Q{n} {{ ...F }}"));
        let large = times(19, |n| format!("a{n} {{ {} }}", times(99, |m| format!("f{m}"))));
        exceeds(&format!("{many} fragment F on Query {{ {large} }}"), "selections, its fragments laid out");
    }

    #[test]
    fn introspection_is_refused_where_it_is_off() {
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
    fn the_usual_introspection_query_passes() {
        let of_type = format!("{}kind{}", "kind name ofType { ".repeat(9), " }".repeat(9));
        passes(&format!(
            "{{ __schema {{ queryType {{ name }} types {{ ...T }} directives {{ name args {{ ...V }} }} }} }}
             fragment T on __Type {{ kind name fields(includeDeprecated: true) {{ name args {{ ...V }} type {{ ...R }} }}
               inputFields {{ ...V }} interfaces {{ ...R }} enumValues {{ name }} possibleTypes {{ ...R }} }}
             fragment V on __InputValue {{ name type {{ ...R }} defaultValue }}
             fragment R on __Type {{ {of_type} }}"
        ));
    }
}
