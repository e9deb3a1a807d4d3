//! Style rules of the project, kept by a test: reads every source and reports each violation with file
//! and line. Each rule is a function of the sources and proves beside itself, on a snippet, that it can
//! fail. Rules that the compiler or clippy enforces (warnings, `unwrap`, complexity) are not repeated
//! here.

mod language;
mod layers;
mod layout;
mod modules;
mod names;
mod schema;
mod size;
mod sql;
mod style;
mod supply;
mod text;
mod tree;

use tree::{Violation, sources, texts};

/// Fails with all violations, one a line, in the order of the files.
fn assert_none(mut violations: Vec<Violation>) {
    violations.sort();
    let list: Vec<String> = violations.iter().map(|violation| format!("\n  {violation}")).collect();
    assert!(list.is_empty(), "{} violations:{}\n", list.len(), list.concat());
}

#[test]
fn a_file_has_at_most_500_lines() {
    assert_none(size::files(&sources()));
}

#[test]
fn a_function_has_at_most_70_lines() {
    assert_none(size::functions(&sources()));
}

#[test]
fn no_module_is_called_mod_rs() {
    assert_none(layout::module_files(&sources()));
}

#[test]
fn a_folder_of_sources_has_at_least_three_files() {
    assert_none(layout::folders(&sources()));
}

#[test]
fn a_trait_has_more_than_one_implementation() {
    assert_none(layout::traits(&sources()));
}

#[test]
fn types_and_modules_have_specific_names() {
    assert_none(names::items(&sources()));
}

#[test]
fn files_have_specific_names() {
    assert_none(names::files(&sources()));
}

#[test]
fn sql_is_only_in_stores() {
    assert_none(sql::statements(&sources()));
}

#[test]
fn services_do_not_depend_on_each_other() {
    assert_none(layers::services(&texts()));
}

#[test]
fn foundation_crates_depend_on_neither_services_nor_contracts() {
    assert_none(layers::foundations(&texts()));
}

#[test]
fn foundation_crates_use_no_domain_word() {
    assert_none(layers::words(&sources()));
}

#[test]
fn http_and_the_binary_do_not_import_the_socket() {
    assert_none(modules::socket_imports(&sources()));
}

#[test]
fn gateway_modules_have_no_circular_imports() {
    assert_none(modules::circles(&sources()));
}

#[test]
fn text_names_no_path_of_a_machine_and_no_registry() {
    assert_none(text::places(&texts()));
}

#[test]
fn text_is_plain_english() {
    assert_none(language::phrases(&texts()));
}

#[test]
fn docs_do_not_open_with_a_question_word() {
    assert_none(language::openings(&texts()));
}

#[test]
fn lines_are_not_too_long() {
    assert_none(style::lines(&texts()));
}

#[test]
fn unrelated_values_are_not_bound_as_a_tuple() {
    assert_none(style::tuples(&sources()));
}

#[test]
fn locks_cannot_be_poisoned() {
    assert_none(style::poisoned_locks(&sources()));
}

#[test]
fn schema_changes_only_in_descriptions() {
    schema::compare();
}

#[test]
fn dependencies_are_allowed_by_deny_toml() {
    let supply = supply::Supply::read();
    assert_none(supply.licences());
    assert_none(supply.bans());
    assert_none(supply.sources());
}

#[test]
fn the_bill_of_materials_names_every_package() {
    let path = supply::Supply::read().write_bill();
    println!("{}", path.display());
}
