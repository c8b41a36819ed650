//! docs/performance.md: what was measured, between marks that name the command.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{console, workspace};

/// Where the figures are kept, below the root.
const PAGE: &str = "docs/performance.md";

/// Replaces the figures of one command (`bench policy`, say) in the page.
pub(crate) fn write(command: &str, figures: &str) -> Result<()> {
    let page = workspace::root().join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| format!("cannot read {PAGE}"))?;
    let text = replaced(&text, command, figures)
        .with_context(|| format!("{PAGE} has no place for the figures of `{command}`"))?;
    fs::write(&page, text).with_context(|| format!("cannot write {PAGE}"))?;
    console::note(format!("written to {PAGE}"));
    Ok(())
}

/// The page with new figures between the marks of a command.
fn replaced(page: &str, command: &str, figures: &str) -> Option<String> {
    let (before, rest) = page.split_once(&format!("<!-- {command} -->\n"))?;
    let (_, after) = rest.split_once(&format!("<!-- end of {command} -->\n"))?;
    Some(format!("{before}<!-- {command} -->\n{figures}\n<!-- end of {command} -->\n{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_replaced_in_their_place_alone() {
        let page = "# P\n<!-- bench a -->\nold\n<!-- end of bench a -->\n<!-- bench b -->\n<!-- end of bench b -->\n";
        let new = replaced(page, "bench a", "new\nfigures").unwrap();
        assert!(
            new.starts_with(
                "# P\n<!-- bench a -->\nnew\nfigures\n<!-- end of bench a -->\n<!-- bench b -->\n"
            )
        );
        assert_eq!(replaced(&new, "bench a", "new\nfigures").unwrap(), new);
        assert_eq!(replaced(page, "bench c", ""), None);
    }
}
