//! What the binary says of itself: manual pages, and completions for shells.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::tree::put;

/// Shells, and where each looks for completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/bulkhead"),
    ("zsh", "usr/share/zsh/vendor-completions/_bulkhead"),
    ("fish", "usr/share/fish/vendor_completions.d/bulkhead.fish"),
];

const MANUAL: &str = "usr/share/man/man1";

pub(crate) fn install(speaker: &Path, root: &Path) -> Result<()> {
    for (shell, path) in COMPLETIONS {
        put(root, path, &ask(speaker, &["completions", shell])?)?;
    }
    let all = ask(speaker, &["man"])?;
    let commands = commands(&String::from_utf8_lossy(&all));
    ensure!(commands.iter().any(|name| name == "run"), "the manual page names no commands: {commands:?}");
    page(root, "bulkhead.1", &all)?;
    for name in commands {
        page(root, &format!("bulkhead-{name}.1"), &ask(speaker, &["man", &name])?)?;
    }
    Ok(())
}

/// Commands as the main manual page refers to them.
fn commands(page: &str) -> Vec<String> {
    let names = page.lines().filter_map(|line| line.strip_prefix("bulkhead\\-")?.strip_suffix("(1)"));
    names.map(|name| name.replace('\\', "")).filter(|name| name != "help").collect()
}

fn page(root: &Path, name: &str, text: &[u8]) -> Result<()> {
    let path = PathBuf::from(MANUAL).join(name);
    put(root, &path, text)?;
    // Without name and time, so that it is the same each time.
    let gzip = Command::new("gzip").args(["--no-name", "--best"]).arg(root.join(&path)).status();
    ensure!(gzip.context("cannot start gzip")?.success(), "gzip failed with {name}");
    Ok(())
}

fn ask(speaker: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(speaker).args(arguments).output();
    let output = output.with_context(|| format!("cannot start {}", speaker.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} {arguments:?}: {}\n{said}", speaker.display(), output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::commands;

    #[test]
    fn the_main_page_names_the_others() {
        let page = ".SH SUBCOMMANDS\n.TP\nbulkhead\\-run(1)\nEnforce\n.TP\nbulkhead\\-help(1)\nHelp\n";
        assert_eq!(commands(page), ["run"]);
    }
}
