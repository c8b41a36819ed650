//! What goes wrong around an agent, and what it promises all the same. docs/reliability.md has the table.

mod floods;
mod killed;
mod log;
mod pins;
mod state;
mod storms;

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

/// The file with a test that the page names, and how it is spelt there.
fn place(named: &str) -> Result<(String, String)> {
    let (file, test) = named.rsplit_once("::").context("a test is in a module")?;
    let spelt = match file.strip_prefix("kernel::") {
        Some(module) => format!("\"{module}::{test}\""),
        None => format!("fn {test}()"),
    };
    Ok((format!("{}.rs", file.replace("::", "/")), spelt))
}

#[test]
fn the_page_names_tests_that_are_there() -> Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(here.join("../docs/reliability.md"))?;
    let quoted = page.split('`').skip(1).step_by(2);
    let named: Vec<_> = quoted.filter(|quoted| quoted.contains("::")).collect();
    ensure!(named.len() > 20, "the page names {named:?} only");
    for named in named {
        let (file, spelt) = place(named)?;
        let text = fs::read_to_string(here.join("tests").join(&file));
        let text = text.with_context(|| format!("{named}: no {file}"))?;
        ensure!(text.contains(&spelt), "{named}: {file} has no {spelt}");
    }
    Ok(())
}
