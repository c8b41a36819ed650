use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use annotate_snippets::{Annotation, AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::{Place, Source, Word};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The policy does not compile.
    Error,
    /// The policy compiles and probably does not say what was meant.
    Warning,
}

/// What kind of mistake it is. docs/policy.md has a section on each ([`Code::reference`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The file is not TOML.
    Syntax,
    /// A key that means nothing here.
    UnknownKey,
    /// A key that must be there.
    MissingKey,
    /// A value of the wrong kind or form.
    BadValue,
    /// Something that nothing declares.
    UnknownName,
    /// One name for two things.
    DuplicateName,
    /// A name that means something else in a rule.
    ReservedName,
    /// Not an address range.
    BadCidr,
    /// Not a protocol and port.
    BadPort,
    /// Not a selector.
    BadSelector,
    /// Two workloads that claim the same cgroups with equal right.
    AmbiguousSelector,
    /// One address range in two environments.
    AmbiguousCidr,
    /// One interface of two environments.
    AmbiguousInterface,
    /// An allow that a forbid rules out.
    Forbidden,
    /// An allow that a forbid rules out if somebody has the addresses for it.
    UnprovedForbid,
    /// A rule that opens nothing.
    IdleRule,
    /// A rule that other rules make superfluous.
    ShadowedRule,
    /// A rule that has expired.
    ExpiredRule,
    /// A rule that lets everybody into or out of an environment.
    BroadRule,
    /// A workload that no rule mentions.
    WorkloadWithoutRule,
    /// A selector that others can satisfy by choosing a name.
    LooseSelector,
    /// A selector that nothing on this host matches.
    EmptySelector,
    /// Rules for DNS names, and no rule that lets the workload ask for them.
    NoWayToDns,
    /// A rule for `dns`, where a workload is the resolver.
    DnsIsAWorkload,
    /// What no agent follows yet.
    NotFollowed,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::Syntax,
        Self::UnknownKey,
        Self::MissingKey,
        Self::BadValue,
        Self::UnknownName,
        Self::DuplicateName,
        Self::ReservedName,
        Self::BadCidr,
        Self::BadPort,
        Self::BadSelector,
        Self::AmbiguousSelector,
        Self::AmbiguousCidr,
        Self::AmbiguousInterface,
        Self::Forbidden,
        Self::UnprovedForbid,
        Self::IdleRule,
        Self::ShadowedRule,
        Self::ExpiredRule,
        Self::BroadRule,
        Self::WorkloadWithoutRule,
        Self::LooseSelector,
        Self::EmptySelector,
        Self::NoWayToDns,
        Self::DnsIsAWorkload,
        Self::NotFollowed,
    ];

    /// The name that reports and docs/policy.md use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::UnknownKey => "unknown-key",
            Self::MissingKey => "missing-key",
            Self::BadValue => "bad-value",
            Self::UnknownName => "unknown-name",
            Self::DuplicateName => "duplicate-name",
            Self::ReservedName => "reserved-name",
            Self::BadCidr => "bad-cidr",
            Self::BadPort => "bad-port",
            Self::BadSelector => "bad-selector",
            Self::AmbiguousSelector => "ambiguous-selector",
            Self::AmbiguousCidr => "ambiguous-cidr",
            Self::AmbiguousInterface => "ambiguous-interface",
            Self::Forbidden => "forbidden",
            Self::UnprovedForbid => "unproved-forbid",
            Self::IdleRule => "idle-rule",
            Self::ShadowedRule => "shadowed-rule",
            Self::ExpiredRule => "expired-rule",
            Self::BroadRule => "broad-rule",
            Self::WorkloadWithoutRule => "workload-without-rule",
            Self::LooseSelector => "loose-selector",
            Self::EmptySelector => "empty-selector",
            Self::NoWayToDns => "no-way-to-dns",
            Self::DnsIsAWorkload => "dns-is-a-workload",
            Self::NotFollowed => "not-followed",
        }
    }

    /// Where the reference explains it: a page of the project's documentation, and the section there.
    pub fn reference(self) -> String {
        format!("docs/policy.md#{}", self.name())
    }
}

/// One finding about policy text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of mistake it is.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// Where.
    pub place: Place,
    /// What to do about it.
    pub help: Option<String>,
    label: String,
    related: Vec<(Place, String)>,
}

impl Diagnostic {
    /// An error at `place`.
    pub(crate) fn error(code: Code, place: &Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: brief(message.into()),
            place: place.clone(),
            help: None,
            label: String::new(),
            related: Vec::new(),
        }
    }

    /// A warning at `place`.
    pub(crate) fn warning(code: Code, place: &Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, place, message) }
    }

    /// One name for two things.
    pub(crate) fn declared_twice(name: &Word, first: &Place, kind: &str) -> Self {
        let fault = format!("the name `{}` is declared twice", name.text);
        Self::error(Code::DuplicateName, &name.at, fault)
            .label("declared again here")
            .related(first, "declared first here")
            .help(format!("give one {kind} another name"))
    }

    /// Says what to do about it.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(brief(help.into()));
        self
    }

    /// Says what to do about it, if anything is known.
    pub(crate) fn maybe_help(self, help: Option<String>) -> Self {
        match help {
            Some(help) => self.help(help),
            None => self,
        }
    }

    /// Writes `label` under the place.
    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = brief(label.into());
        self
    }

    /// Shows another place that has to do with it.
    pub(crate) fn related(mut self, place: &Place, label: impl Into<String>) -> Self {
        self.related.push((place.clone(), brief(label.into())));
        self
    }

    fn render(&self, sources: &BTreeMap<&str, &Source>, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let primary = (&self.place, &self.label, AnnotationKind::Primary);
        let related = self.related.iter().map(|(place, label)| (place, label, AnnotationKind::Context));
        let mut windows: Vec<Window<'_>> = Vec::new();
        for (place, label, kind) in std::iter::once(primary).chain(related) {
            match windows.iter_mut().find(|w| w.is_near(place)) {
                Some(window) => window.marks.push((place, label, kind)),
                None => windows.push(Window { marks: vec![(place, label, kind)] }),
            }
        }
        let title = level.primary_title(self.message.as_str()).id(self.code.name());
        let shown = windows.iter().filter_map(|w| Some(w.element(sources.get(&*w.marks[0].0.file)?)));
        let group = title.elements(shown);
        let group = group.element(Level::NOTE.with_name("see").message(self.code.reference()));
        let mut report: Vec<Group<'_>> = vec![group];
        if let Some(help) = &self.help {
            report.push(Group::with_title(Level::HELP.secondary_title(help.as_str())));
        }
        renderer.render(&report)
    }
}

/// Places near each other in one file: they are shown together. Only their lines are handed to the renderer, which
/// looks at all of a text for each finding.
struct Window<'d> {
    marks: Vec<(&'d Place, &'d String, AnnotationKind)>,
}

impl<'d> Window<'d> {
    fn is_near(&self, place: &Place) -> bool {
        self.marks.iter().any(|(other, ..)| other.file == place.file && other.line.abs_diff(place.line) <= 5)
    }

    /// The lines, or only where they are if they are longer than anybody reads.
    fn element(&self, source: &'d Source) -> Element<'d> {
        self.snippet(source).map_or_else(
            || {
                let (place, ..) = self.marks[0];
                let at = Origin::path(source.name.as_str()).line(place.line as usize);
                at.char_column(place.column as usize).into()
            },
            Element::from,
        )
    }

    fn snippet(&self, source: &'d Source) -> Option<Snippet<'d, Annotation<'d>>> {
        /// Between the ends of a window and its marks, in bytes.
        const LONGEST: usize = 4_096;
        let text = &*source.text;
        let spans = || self.marks.iter().map(|(place, ..)| place.span());
        let first = spans().map(|s| s.start).min()?;
        let last = spans().map(|s| s.start).max()?;
        let before = &text.as_bytes()[first.saturating_sub(LONGEST)..first];
        let start = match before.iter().rposition(|b| *b == b'\n') {
            Some(newline) => first - before.len() + newline + 1,
            None if before.len() == first => 0,
            None => return None,
        };
        // A mark is shown on its first line: an unfinished string may reach to the end of the file.
        let end_of_line = |from: usize| {
            let rest = &text.as_bytes()[from..];
            let near = &rest[..rest.len().min(LONGEST)];
            match near.iter().position(|b| *b == b'\n') {
                Some(newline) => Some(from + newline),
                None => (near.len() == rest.len()).then_some(text.len()),
            }
        };
        let end = end_of_line(last)?;
        if end - start > 3 * LONGEST {
            return None;
        }
        let first_line = self.marks.iter().map(|(place, ..)| place.line).min().unwrap_or(1);
        let annotations = self.marks.iter().map(|(place, label, kind)| {
            let span = place.span();
            let end = end_of_line(span.start).unwrap_or(end);
            let mark = kind.span(span.start - start..span.end.min(end) - start);
            if label.is_empty() { mark } else { mark.label(label.as_str()) }
        });
        let snippet = Snippet::source(&text[start..end]).line_start(first_line as usize);
        Some(snippet.path(source.name.as_str()).annotations(annotations))
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let related = |(place, message): &'_ (Place, String)| Related {
            message: message.clone(),
            file: place.file.to_string(),
            line: place.line,
            column: place.column,
        };
        let mut s = serializer.serialize_struct("Diagnostic", 9)?;
        s.serialize_field("severity", &self.severity)?;
        s.serialize_field("code", &self.code)?;
        s.serialize_field("message", &self.message)?;
        s.serialize_field("file", &*self.place.file)?;
        s.serialize_field("line", &self.place.line)?;
        s.serialize_field("column", &self.place.column)?;
        s.serialize_field("help", &self.help)?;
        s.serialize_field("related", &self.related.iter().map(related).collect::<Vec<_>>())?;
        s.serialize_field("reference", &self.code.reference())?;
        s.end()
    }
}

/// Another place that has to do with a finding, as JSON.
#[derive(Serialize)]
struct Related {
    message: String,
    file: String,
    line: u32,
    column: u32,
}

/// All findings of one run, each once, in the order of files, lines and columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// The most findings that are rendered: nobody reads more before mending these.
    const SHOWN: usize = 200;

    /// Is there nothing to say?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// Is one of them an error?
    pub fn has_errors(&self) -> bool {
        self.iter().any(|d| d.severity == Severity::Error)
    }

    /// The findings as text with the lines they are about, as compilers show them. `sources` are those that were
    /// loaded; `color` adds ANSI escapes.
    pub fn render(&self, sources: &[Source], color: bool) -> String {
        let by_name = sources.iter().map(|s| (s.name.as_str(), s)).collect();
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for diagnostic in self.iter().take(Self::SHOWN) {
            out.push_str(&diagnostic.render(&by_name, &renderer));
            out.push_str("\n\n");
        }
        if self.len() > Self::SHOWN {
            let _ = writeln!(out, "… and {} more", self.len() - Self::SHOWN);
        }
        out
    }
}

impl From<Vec<Diagnostic>> for Diagnostics {
    fn from(mut findings: Vec<Diagnostic>) -> Self {
        findings.sort_by(|a, b| a.place.cmp(&b.place).then_with(|| a.message.cmp(&b.message)));
        // A parser that goes on where nothing is left to read says one thing again and again.
        findings.dedup();
        Self(findings)
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One line a finding: for logs, where no text is at hand.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, d) in self.iter().enumerate() {
            let break_ = if n == 0 { "" } else { "\n" };
            write!(f, "{break_}{}:{}: {}", d.place, d.place.column, d.message)?;
            if let Some(help) = &d.help {
                write!(f, " ({help})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Findings as they are collected.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Diagnostic>);

impl Findings {
    pub(crate) fn add(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// [`nearest`], as long as somebody may read it: where nearly every name is wrong, each would be compared with all.
    pub(crate) fn nearest<K: AsRef<str>>(
        &self,
        word: &str,
        known: impl IntoIterator<Item = K>,
    ) -> Option<String> {
        if self.0.len() > Diagnostics::SHOWN { None } else { nearest(word, known) }
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.0.iter().any(|d| d.severity == Severity::Error)
    }

    pub(crate) fn syntax_errors(&self) -> usize {
        self.0.iter().filter(|d| d.code == Code::Syntax).count()
    }

    pub(crate) fn finish(self) -> Diagnostics {
        self.0.into()
    }
}

/// A text that may repeat what somebody wrote, without the middle if that is longer than anybody reads.
fn brief(text: String) -> String {
    const LONGEST: usize = 1_000;
    if text.len() <= LONGEST {
        return text;
    }
    let (start, end) =
        (text.floor_char_boundary(LONGEST / 2), text.ceil_char_boundary(text.len() - LONGEST / 2));
    format!("{} … {}", &text[..start], &text[end..])
}

/// "did you mean `…`?", if one of `known` is near enough to `word` to be meant. Of very many names only the first are
/// looked at, and nothing is like a word that is longer than any name.
pub(crate) fn nearest<K: AsRef<str>>(word: &str, known: impl IntoIterator<Item = K>) -> Option<String> {
    const MOST: usize = 10_000;
    /// In bytes.
    const LONGEST: usize = 256;
    if word.len() > LONGEST {
        return None;
    }
    let most = (word.chars().count() / 3).max(1);
    // A character more or less is one step, and at most four bytes.
    let is_as_long = |k: &K| k.as_ref().len().abs_diff(word.len()) <= 4 * most;
    let (distance, best) = known
        .into_iter()
        .take(MOST)
        .filter(is_as_long)
        .map(|k| (strsim::damerau_levenshtein(word, k.as_ref()), k))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= most).then(|| format!("did you mean `{}`?", best.as_ref()))
}

/// "`a`, `b` or `c`".
pub(crate) fn or_list(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|w| format!("`{w}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}
