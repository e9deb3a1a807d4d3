//! Imports among the gateway's modules: nothing outside `socket` knows the WebSocket protocol, and no
//! module depends on itself through others. Tests may import anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

use crate::tree::{Source, Violation, only_in_tests};

const ROOT: &str = "gateway/src";
const SOCKET: &str = "socket";

/// A module by its path below the crate: `["hub", "unread"]`; the crate's root is empty.
type Module = Vec<String>;

/// Imports of the gateway's WebSocket module by its HTTP modules or by the binary.
pub fn socket_imports(sources: &[Source]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for source in sources.iter().filter(|source| !source.test) {
        let of_binary = source.path.starts_with("src");
        let module = module(&source.path).filter(|module| module.first().is_some_and(|name| name == "http"));
        if !of_binary && module.is_none() {
            continue;
        }
        for import in imports(source) {
            let socket = match &module {
                Some(own) => absolute(own, &import.path).is_some_and(|path| path[0] == SOCKET),
                None => import.path.starts_with(&["gateway".to_owned(), SOCKET.to_owned()]),
            };
            if socket {
                violations.push(Violation::new(&source.path, import.line, "must not import `socket`"));
            }
        }
    }
    violations
}

/// Circles of imports among the gateway's files.
///
/// A module and its descendants may refer to each other: a child uses the types of its parent, which
/// calls it. So a circle is reported when it runs through a module of another family, or when it remains
/// after the family's head is taken out (two siblings that import each other).
pub fn circles(sources: &[Source]) -> Vec<Violation> {
    let files: BTreeMap<Module, &Source> = sources
        .iter()
        .filter(|source| !source.test)
        .filter_map(|source| Some((module(&source.path)?, source)))
        .collect();
    let mut graph = Graph::new();
    for (own, source) in &files {
        let targets = imports(source).into_iter().filter_map(|import| {
            let path = absolute(own, &import.path)?;
            (0..=path.len()).rev().map(|end| path[..end].to_vec()).find(|module| files.contains_key(module))
        });
        graph.insert(own.clone(), targets.filter(|target| target != own).collect());
    }
    let mut found = Vec::new();
    collect_circles(&graph, &mut found);
    let violation = |circle: Vec<Module>| {
        let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
        let what = format!("a circle of imports among {}", names.join(", "));
        Violation::new(&files[&circle[0]].path, 1, what)
    };
    found.into_iter().map(violation).collect()
}

/// Imports by module.
type Graph = BTreeMap<Module, BTreeSet<Module>>;

fn collect_circles(graph: &Graph, found: &mut Vec<Vec<Module>>) {
    let reached: BTreeMap<&Module, BTreeSet<Module>> =
        graph.keys().map(|module| (module, reachable(graph, module))).collect();
    let mut seen = BTreeSet::new();
    for module in graph.keys() {
        let mutual = |other: &&Module| reached[module].contains(*other) && reached[*other].contains(module);
        let circle: Vec<Module> = graph.keys().filter(mutual).cloned().collect();
        if circle.len() < 2 || !seen.insert(circle.clone()) {
            continue;
        }
        // Modules are sorted, so the head of a family comes before its descendants.
        let head = &circle[0];
        if !circle.iter().all(|other| other.starts_with(head)) {
            found.push(circle);
            continue;
        }
        let rest = |targets: &BTreeSet<Module>| {
            targets.iter().filter(|target| *target != head && circle.contains(target)).cloned().collect()
        };
        let family = circle[1..].iter().map(|module| (module.clone(), rest(&graph[module]))).collect();
        collect_circles(&family, found);
    }
}

fn reachable(graph: &Graph, from: &Module) -> BTreeSet<Module> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for target in graph.get(module).into_iter().flatten() {
            if reached.insert(target.clone()) {
                open.push(target);
            }
        }
    }
    reached
}

/// Returns the module of a source of the gateway.
fn module(path: &Path) -> Option<Module> {
    let below = path.strip_prefix(ROOT).ok()?.with_extension("");
    let module: Module = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    Some(if module == ["lib"] { Module::new() } else { module })
}

/// Resolves a path that a module names to one from the crate's root. Paths into other crates resolve to none.
fn absolute(own: &[String], path: &[String]) -> Option<Module> {
    let (first, rest) = path.split_first()?;
    let mut base = match first.as_str() {
        "crate" => Module::new(),
        "self" => own.to_vec(),
        "super" => own[..own.len().checked_sub(1)?].to_vec(),
        _ => return None,
    };
    for name in rest {
        if name == "super" {
            base.pop()?;
        } else {
            base.push(name.clone());
        }
    }
    (!base.is_empty()).then_some(base)
}

/// A path that a source names, with its line.
struct Import {
    path: Vec<String>,
    line: usize,
}

/// Collects the paths of a source outside its tests. A path through a child that it declares begins with
/// `self`.
fn imports(source: &Source) -> Vec<Import> {
    let children = source.file.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if module.content.is_none() && !only_in_tests(&module.attrs) => {
            Some(module.ident.to_string())
        }
        _ => None,
    });
    let mut visitor = Imports { children: children.collect(), found: Vec::new() };
    visitor.visit_file(&source.file);
    visitor.found
}

struct Imports {
    children: Vec<String>,
    found: Vec<Import>,
}

impl Imports {
    fn add(&mut self, mut path: Vec<String>, line: usize) {
        if path.first().is_some_and(|first| self.children.contains(first)) {
            path.insert(0, "self".into());
        }
        self.found.push(Import { path, line });
    }

    fn add_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let extended = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.add_tree(&extended(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.add(extended(&name.ident), name.ident.span().start().line),
            syn::UseTree::Rename(name) => self.add(extended(&name.ident), name.ident.span().start().line),
            syn::UseTree::Glob(glob) => self.add(before.to_vec(), glob.star_token.spans[0].start().line),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(before, tree)),
        }
    }

    /// The arguments of macros are tokens: names joined by `::` are a path.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path = Vec::new();
        let mut line = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    line = name.span().start().line;
                    path.push(name.to_string());
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => {}
                other => {
                    self.add(std::mem::take(&mut path), line);
                    if let TokenTree::Group(group) = other {
                        self.add_tokens(group.stream());
                    }
                }
            }
        }
        self.add(path, line);
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !only_in_tests(attributes) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(names, path.segments[0].ident.span().start().line);
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.add_tokens(call.tokens.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Vec<Source> {
        files.iter().map(|(path, text)| Source::parse(path, text)).collect()
    }

    #[test]
    fn an_import_of_the_socket_is_found_however_it_is_written() {
        for (path, text) in [
            ("gateway/src/http/stream.rs", "use crate::socket::Sockets;"),
            ("gateway/src/http.rs", "use crate::{hub, socket::{Sockets, close}};"),
            ("gateway/src/http.rs", "use super::socket;"),
            ("gateway/src/http.rs", "fn f() { m!(1, crate::socket::f()) }"),
            ("src/gateway.rs", "fn f() { gateway::socket::f() }"),
        ] {
            assert_ne!(socket_imports(&sources(&[(path, text)])), [], "{text}");
        }
        for (path, text) in [
            ("gateway/src/lib.rs", "use crate::socket::Sockets;"),
            ("gateway/src/http.rs", "#[cfg(test)] mod tests { use crate::socket::Sockets; }"),
            ("gateway/src/http.rs", "use tokio::socket::Sockets; use crate::hub::socket;"),
        ] {
            assert_eq!(socket_imports(&sources(&[(path, text)])), [], "{text}");
        }
    }

    #[test]
    fn a_circle_of_two_modules_and_one_through_a_child_are_found() {
        let circle = sources(&[
            ("gateway/src/lib.rs", "mod a; mod b; use a::A;"),
            ("gateway/src/a.rs", "use crate::b::B;"),
            ("gateway/src/b.rs", "fn f(a: super::a::A) {}"),
        ]);
        assert_eq!(
            circles(&circle),
            [Violation::new("gateway/src/a.rs".as_ref(), 1, "a circle of imports among a, b")]
        );
        let through_child = sources(&[
            ("gateway/src/a.rs", "mod c; use c::C;"),
            ("gateway/src/a/c.rs", "use crate::b::B;"),
            ("gateway/src/b.rs", "use crate::a::A;"),
        ]);
        assert_eq!(circles(&through_child).len(), 1);
    }

    #[test]
    fn a_family_may_refer_to_its_head_but_siblings_not_to_each_other() {
        let family = [
            ("gateway/src/a.rs", "mod b; mod c; fn f() { b::f(); c::f() }"),
            ("gateway/src/a/b.rs", "use super::{A, c};"),
            ("gateway/src/a/c.rs", "use super::A;"),
        ];
        assert_eq!(circles(&sources(&family)), []);
        let siblings = [family[0], family[1], ("gateway/src/a/c.rs", "use super::b::B;")];
        assert_eq!(
            circles(&sources(&siblings)),
            [Violation::new("gateway/src/a/b.rs".as_ref(), 1, "a circle of imports among a::b, a::c")]
        );
    }
}
