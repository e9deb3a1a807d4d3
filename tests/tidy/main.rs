//! The shape of the project, kept by a test: it reads every source and says at once what does not follow the rules of the
//! house, with file and line. Each rule is a function of the sources and proves beside itself, on a snippet, that it can
//! fail. What the compiler and clippy see already (warnings, `unwrap`, complexity) is not looked at here.

mod layers;
mod shape;
mod size;
mod sql;
mod supply;
mod text;
mod tree;

use tree::{Tree, Violation};

/// Fails with all violations, one a line, in the order of the files.
fn hold(mut violations: Vec<Violation>) {
    violations.sort();
    let list: Vec<String> = violations.iter().map(|violation| format!("\n  {violation}")).collect();
    assert!(list.is_empty(), "{} violations:{}\n", list.len(), list.concat());
}

#[test]
fn a_file_has_at_most_500_lines() {
    hold(size::files(&Tree::read().sources));
}

#[test]
fn a_function_fits_a_screen_of_70_lines() {
    hold(size::functions(&Tree::read().sources));
}

#[test]
fn no_module_is_called_mod_rs() {
    hold(shape::module_files(&Tree::read().sources));
}

#[test]
fn a_folder_of_sources_has_at_least_three_files() {
    hold(shape::folders(&Tree::read().sources));
}

#[test]
fn a_name_says_what_a_thing_is() {
    hold(shape::names(&Tree::read().sources));
}

#[test]
fn a_trait_has_more_than_one_implementation() {
    hold(shape::traits(&Tree::read().sources));
}

#[test]
fn sql_stands_in_the_store_alone() {
    hold(sql::places(&Tree::read().sources));
}

#[test]
fn services_do_not_know_each_other() {
    hold(layers::services(&Tree::read().texts));
}

#[test]
fn the_crates_below_know_neither_services_nor_contracts() {
    hold(layers::foundations(&Tree::read().texts));
}

#[test]
fn the_crates_below_have_no_word_of_the_domain() {
    hold(layers::words(&Tree::read().sources));
}

#[test]
fn the_text_names_no_place_outside_the_project() {
    hold(text::places(&Tree::read().texts));
}

#[test]
fn what_comes_in_with_dependencies_is_allowed() {
    let supply = supply::Supply::read();
    hold(supply.licences());
    hold(supply.bans());
    hold(supply.sources());
}

#[test]
fn the_bill_of_materials_names_every_package() {
    let path = supply::Supply::read().write_bill();
    println!("{}", path.display());
}
