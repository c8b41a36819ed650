//! Links of the documentation: every file and heading that one points to exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use super::{Finding, Source};
use crate::workspace;

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let pages =
        sources.iter().filter(|source| Path::new(&source.path).extension().is_some_and(|e| e == "md"));
    let headings: BTreeMap<PathBuf, BTreeSet<String>> =
        pages.clone().map(|page| (PathBuf::from(&page.path), headings(&page.text))).collect();
    let exists = |path: &Path| workspace::root().join(path).exists();
    pages.flat_map(|page| broken(page, &headings, exists)).collect()
}

fn broken(
    page: &Source,
    headings: &BTreeMap<PathBuf, BTreeSet<String>>,
    exists: impl Fn(&Path) -> bool,
) -> Vec<Finding> {
    let complaint = |link: &str| {
        let (file, heading) =
            link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
        let target = if file.is_empty() { PathBuf::from(&page.path) } else { resolve(&page.path, file) };
        if !exists(&target) {
            return Some(format!("{link}: no such file"));
        }
        let known = headings.get(&target).zip(heading);
        known.filter(|(known, heading)| !known.contains(*heading)).map(|_| format!("{link}: no such heading"))
    };
    links(&page.text)
        .filter(|(_, link)| !link.contains("://") && !link.starts_with("mailto:"))
        .filter_map(|(number, link)| Some(Finding::new(format!("{}:{number}", page.path), complaint(link)?)))
        .collect()
}

/// The file that a page's relative link means, from the root.
fn resolve(page: &str, link: &str) -> PathBuf {
    let mut path = Path::new(page).parent().unwrap_or(Path::new("")).to_path_buf();
    for component in Path::new(link).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    path
}

/// Line number and target of `[text](target)`, outside of code.
fn links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    prose(text).flat_map(|(number, line)| {
        line.match_indices("](").filter_map(move |(at, opening)| {
            let in_code = line[..at].matches('`').count() % 2 == 1;
            let target = line[at + opening.len()..].split(')').next()?;
            (!in_code).then(|| (number, target.split(' ').next().unwrap_or(target)))
        })
    })
}

/// The anchors that GitHub makes of a page's headings.
fn headings(text: &str) -> BTreeSet<String> {
    let titles = prose(text).filter_map(|(_, line)| {
        line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))
    });
    titles.map(anchor).collect()
}

fn anchor(title: &str) -> String {
    let kept = title.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The numbered lines outside of fenced code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Vec<String> {
        let page = Source { path: "docs/a.md".to_owned(), text: text.to_owned() };
        let headings = [(PathBuf::from("docs/a.md"), headings("# What `decide()` does\n"))].into();
        let exists = |path: &Path| ["docs/a.md", "README.md"].iter().any(|known| Path::new(known) == path);
        broken(&page, &headings, exists).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_link_to_nowhere_is_found() {
        assert_eq!(page("See\n[that](b.md)."), ["docs/a.md:2: b.md: no such file"]);
        assert_eq!(page("[here](#nothing)"), ["docs/a.md:1: #nothing: no such heading"]);
    }

    #[test]
    fn a_good_link_and_code_are_left_alone() {
        let fine = "[up](../README.md) [here](#what-decide-does) [there](https://example.org/x)";
        assert_eq!(page(fine), Vec::<String>::new());
        assert_eq!(page("`[x](b.md)`\n```\n[x](b.md)\n```\n"), Vec::<String>::new());
    }
}
