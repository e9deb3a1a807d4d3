//! Limits of a parsed document: depth, aliases, directives, root fields, repetition, and its size with
//! all fragments expanded. One traversal, which stops at the first limit that is exceeded.

use std::collections::{HashMap, HashSet};

use apollo_compiler::{
    Name,
    ast::{Definition, DirectiveList, Document, Field, FragmentDefinition, OperationDefinition, Selection},
};

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
/// Longest alias in bytes. Each element of a list repeats it in the answer.
pub const ALIAS_MAX_BYTES: usize = 128;
/// Most directives of an operation, at any location.
pub const DIRECTIVES_MAX: usize = 50;
/// Most root fields of an operation.
pub const ROOT_FIELDS_MAX: usize = 20;
/// Most repetitions of one response name in a selection set.
pub const REPEATS_MAX: usize = 50;
/// Most entities that a federation gateway may request in one `_entities` field.
pub const ENTITIES_MAX: usize = 100;
/// Most selections with all fragments expanded, and the highest cost of a request. The largest answer has
/// this many times `ANSWER_BYTES_PER_COST`.
pub const COMPLEXITY_MAX: usize = 20_000;
/// Most bytes in an answer for one unit of cost: an alias of 128 bytes, and a name of 64 characters of 4
/// bytes with its punctuation. A text has a complexity to match. The ids of 1,000 participants take 2.4
/// times what their complexity stands for, and errors are not counted: such an answer takes further room
/// when it is complete.
pub const ANSWER_BYTES_PER_COST: usize = 400;
const SELECTIONS: &str = "selections, with its fragments expanded";
/// Deepest nesting of fragments, inline fragments included.
const NESTING_MAX: usize = 50;
/// Deepest level that the traversal can reach before it rejects the document.
const TRAVERSAL_DEPTH_MAX: usize = NESTING_MAX + INTROSPECTION_DEPTH_MAX;

/// Checks every operation of a document against the limits.
///
/// # Errors
/// LIMIT_EXCEEDED; GRAPHQL_VALIDATION_FAILED for a cycle of fragments, an unused fragment, and
/// introspection while it is off.
pub fn check(document: &Document, introspection: bool) -> Result<(), Error> {
    let mut traversal = Traversal::new(document, introspection);
    for definition in &document.definitions {
        if let Definition::OperationDefinition(operation) = definition {
            traversal.operation(operation)?;
        }
    }
    match traversal.fragments.keys().find(|fragment| !traversal.used.contains(*fragment)) {
        Some(fragment) => {
            Err(Error::new(Code::GraphqlValidationFailed, format!("fragment \"{fragment}\" is never used")))
        }
        None => Ok(()),
    }
}

struct Traversal<'a> {
    fragments: HashMap<&'a Name, &'a FragmentDefinition>,
    introspection: bool,
    selections: usize,
    introspected: usize,
    aliases: usize,
    directives: usize,
    root_fields: usize,
    /// Fragments that an operation uses, directly or through other fragments.
    used: HashSet<&'a Name>,
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
    fn new(document: &'a Document, introspection: bool) -> Self {
        let fragments = document.definitions.iter().filter_map(|definition| match definition {
            Definition::FragmentDefinition(fragment) => Some((&fragment.name, &**fragment)),
            _ => None,
        });
        Self {
            fragments: fragments.collect(),
            introspection,
            selections: 0,
            introspected: 0,
            aliases: 0,
            directives: 0,
            root_fields: 0,
            used: HashSet::new(),
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
        self.directives(&operation.directives)?;
        for variable in &operation.variables {
            self.directives(&variable.directives)?;
        }
        let expanded = self.expanded_size(&operation.selection_set, 0);
        at_most(COMPLEXITY_MAX, self.selections.saturating_add(expanded), SELECTIONS)?;
        self.set(&operation.selection_set, Location::default(), &mut Repetitions::new())
    }

    /// Computes the number of selections with all fragments expanded, without expanding them. Levels
    /// below the traversal's limit count nothing: the traversal rejects the document when it reaches
    /// them.
    fn expanded_size(&mut self, set: &'a [Selection], depth: usize) -> usize {
        if depth > TRAVERSAL_DEPTH_MAX {
            return 0;
        }
        let mut sum: usize = 0;
        for selection in set {
            let below = match selection {
                Selection::Field(field) => self.expanded_size(&field.selection_set, depth + 1),
                Selection::InlineFragment(fragment) => self.expanded_size(&fragment.selection_set, depth + 1),
                Selection::FragmentSpread(spread) => self.fragment_size(&spread.fragment_name, depth + 1),
            };
            sum = sum.saturating_add(1).saturating_add(below);
        }
        sum
    }

    fn fragment_size(&mut self, name: &'a Name, depth: usize) -> usize {
        if let Some(known) = self.sizes.get(name) {
            return *known;
        }
        let Some(&fragment) = self.fragments.get(name) else { return 0 };
        // Ends the recursion for a fragment that contains itself; the traversal rejects it later.
        self.sizes.insert(name, 0);
        let size = self.expanded_size(&fragment.selection_set, depth);
        self.sizes.insert(name, size);
        size
    }

    fn set(
        &mut self,
        set: &'a [Selection],
        location: Location,
        repetitions: &mut Repetitions<'a>,
    ) -> Result<(), Error> {
        for selection in set {
            self.selections += 1;
            at_most(COMPLEXITY_MAX, self.selections, SELECTIONS)?;
            match selection {
                Selection::Field(field) => self.field(field, location, repetitions)?,
                Selection::InlineFragment(fragment) => {
                    self.directives(&fragment.directives)?;
                    self.set(&fragment.selection_set, nested(location)?, repetitions)?;
                }
                Selection::FragmentSpread(spread) => {
                    self.directives(&spread.directives)?;
                    self.spread(&spread.fragment_name, nested(location)?, repetitions)?;
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
        let name = field.name.as_str();
        self.directives(&field.directives)?;
        if location.depth == 0 {
            self.root_fields += 1;
            at_most(ROOT_FIELDS_MAX, self.root_fields, "root fields")?;
            self.root_field(name)?;
        }
        self.aliases += usize::from(field.alias.is_some());
        at_most(ALIASES_MAX, self.aliases, "aliases")?;
        let alias_bytes = field.alias.as_ref().map_or(0, |alias| alias.len());
        at_most(ALIAS_MAX_BYTES, alias_bytes, "bytes in an alias")?;
        let count = repetitions.entry(field.response_name().as_str()).or_default();
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
        self.set(&field.selection_set, below, &mut Repetitions::new())
    }

    fn root_field(&self, name: &str) -> Result<(), Error> {
        if !self.introspection && matches!(name, "__schema" | "__type" | "_service") {
            return Err(Error::new(Code::GraphqlValidationFailed, "introspection is off"));
        }
        Ok(())
    }

    fn spread(
        &mut self,
        name: &'a Name,
        location: Location,
        repetitions: &mut Repetitions<'a>,
    ) -> Result<(), Error> {
        // Validation rejects unknown fragments.
        let Some(&fragment) = self.fragments.get(name) else { return Ok(()) };
        if self.enclosing.contains(&name) {
            let message = format!("fragment \"{name}\" contains itself");
            return Err(Error::new(Code::GraphqlValidationFailed, message));
        }
        self.used.insert(name);
        self.enclosing.push(name);
        self.directives(&fragment.directives)?;
        self.set(&fragment.selection_set, location, repetitions)?;
        self.enclosing.pop();
        Ok(())
    }

    fn directives(&mut self, directives: &DirectiveList) -> Result<(), Error> {
        self.directives += directives.len();
        at_most(DIRECTIVES_MAX, self.directives, "directives")
    }
}

/// Checks the number of entities of one `_entities` field.
///
/// # Errors
/// LIMIT_EXCEEDED.
pub fn check_entities(count: usize) -> Result<(), Error> {
    at_most(ENTITIES_MAX, count, "entities")
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
    use super::*;

    fn checked(text: &str) -> Result<(), Error> {
        check(&Document::parse(text, "test").expect("a document"), true)
    }

    #[track_caller]
    fn passes(text: &str) {
        assert_eq!(checked(text), Ok(()), "{text}");
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

        assert_eq!(check_entities(ENTITIES_MAX), Ok(()));
        assert_eq!(check_entities(ENTITIES_MAX + 1).map_err(|error| error.code()), Err(Code::LimitExceeded));
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
        passes(&text);
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
            let document = Document::parse(text, "test").expect("a document");
            let error = check(&document, false).expect_err(text);
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
