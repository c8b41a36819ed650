use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Code, Diagnostic, Findings, Place, Source, nearest, or_list,
    place::Lines,
    repeated::{Again, repeated},
};

/// A string with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) at: Place,
}

/// Reads one file and notes what is wrong instead of stopping at it.
pub(crate) struct Reader<'s> {
    lines: Lines<'s>,
    findings: &'s mut Findings,
}

/// A table, or the place where one should be.
#[derive(Clone, Copy)]
pub(crate) struct Table<'t> {
    content: &'t DeTable<'t>,
    /// Where it is declared.
    span: (usize, usize),
}

impl Table<'_> {
    /// Is `key` there?
    pub(crate) fn has(self, key: &str) -> bool {
        self.content.get(key).is_some()
    }

    /// Are there tables with names, `[kind.NAME]`, of a kind that is none of `known`?
    pub(crate) fn has_named_tables_beside(self, known: &[&str]) -> bool {
        let others = self.content.iter().filter(|(key, _)| !known.contains(&key.get_ref().as_ref()));
        let mut tables = others.filter_map(|(_, value)| value.get_ref().as_table());
        tables.any(|table| table.values().any(|value| value.get_ref().is_table()))
    }

    /// Is the value at `key` a list of nothing?
    pub(crate) fn is_empty_list(self, key: &str) -> bool {
        self.content.get(key).and_then(|v| v.get_ref().as_array()).is_some_and(|a| a.is_empty())
    }
}

type Value<'t> = Spanned<DeValue<'t>>;

impl<'s> Reader<'s> {
    /// Parses `source`; syntax errors are noted, and what could be understood is handed to `read`.
    pub(crate) fn read(
        source: &'s Source,
        findings: &'s mut Findings,
        read: impl FnOnce(&mut Self, Table<'_>),
    ) {
        let mut reader = Self { lines: Lines::new(source), findings };
        let (root, errors) = DeTable::parse_recoverable(&source.text);
        reader.syntax_errors(&errors);
        read(&mut reader, Table { content: root.get_ref(), span: (0, 0) });
    }

    fn syntax_errors(&mut self, errors: &[toml::de::Error]) {
        let is_repeated = |error: &&toml::de::Error| error.message() == "duplicate key";
        let mut keys =
            if errors.iter().any(|e| is_repeated(&e)) { repeated(self.lines.text()) } else { HashMap::new() };
        let mut tables = HashSet::new();
        for error in errors {
            let span = error.span().unwrap_or_default();
            let at = self.place(span.clone());
            let again = Some(error).filter(is_repeated).and_then(|_| keys.remove(&span.start));
            let Some(Again { key, first, kind, header }) = again else {
                self.add(Diagnostic::error(Code::Syntax, &at, error.message()));
                continue;
            };
            if header.is_some_and(|header| tables.contains(&header)) {
                continue;
            }
            tables.insert(span.start);
            let first = self.place(first);
            self.add(match kind {
                Some(kind) => Diagnostic::declared_twice(&Word { text: key, at }, &first, &kind),
                None => Diagnostic::error(Code::Syntax, &at, format!("`{key}` is there twice"))
                    .label("again here")
                    .related(&first, "first here")
                    .help("a table has each key once: keep one of them"),
            });
        }
    }

    pub(crate) fn place(&self, span: Range<usize>) -> Place {
        self.lines.place(span)
    }

    pub(crate) fn add(&mut self, diagnostic: Diagnostic) {
        self.findings.add(diagnostic);
    }

    /// Where `table` is declared.
    pub(crate) fn at(&self, table: Table<'_>) -> Place {
        self.place(table.span.0..table.span.1)
    }

    /// Notes every key of `table` that is none of `known`. `what` names the table in the message.
    pub(crate) fn known_keys(&mut self, table: Table<'_>, what: &str, known: &[&str]) {
        for key in table.content.keys().filter(|k| !known.contains(&k.get_ref().as_ref())) {
            let name = key.get_ref();
            let at = self.place(key.span());
            let help = nearest(name, known.iter().copied()).unwrap_or_else(|| {
                format!("{what} has the keys {}", or_list(known).replace(" or ", " and "))
            });
            self.add(
                Diagnostic::error(Code::UnknownKey, &at, format!("unknown key `{name}` in {what}"))
                    .help(help),
            );
        }
    }

    /// The tables of `[kind.NAME]`, in the order of the file.
    pub(crate) fn named_tables<'t>(&mut self, root: Table<'t>, kind: &str) -> Vec<(Word, Table<'t>)> {
        let Some(value) = root.content.get(kind) else { return Vec::new() };
        let DeValue::Table(tables) = value.get_ref() else {
            self.wrong(value, &format!("`{kind}` holds tables: write [{kind}.NAME]"));
            return Vec::new();
        };
        let mut found = Vec::new();
        for (key, value) in tables {
            let at = self.place(key.span());
            match value.get_ref() {
                DeValue::Table(content) => {
                    let span = (key.span().start, key.span().end);
                    found.push((Word { text: key.get_ref().to_string(), at }, Table { content, span }));
                }
                _ => self.wrong(value, &format!("`{kind}` holds tables: write [{kind}.{}]", key.get_ref())),
            }
        }
        found.sort_by_key(|(_, table)| table.span);
        found
    }

    /// The tables of `[[kind]]`, in the order of the file.
    pub(crate) fn tables<'t>(&mut self, root: Table<'t>, kind: &str) -> Vec<Table<'t>> {
        let Some(value) = root.content.get(kind) else { return Vec::new() };
        let DeValue::Array(elements) = value.get_ref() else {
            self.wrong(value, &format!("`{kind}` is a list of tables: write [[{kind}]]"));
            return Vec::new();
        };
        let mut found = Vec::new();
        for element in elements {
            match element.get_ref() {
                DeValue::Table(content) => {
                    found.push(Table { content, span: (element.span().start, element.span().end) });
                }
                _ => self.wrong(element, &format!("`{kind}` is a list of tables: write [[{kind}]]")),
            }
        }
        found
    }

    /// The table at `key`.
    pub(crate) fn table<'t>(&mut self, table: Table<'t>, key: &str) -> Option<Table<'t>> {
        let value = table.content.get(key)?;
        let DeValue::Table(content) = value.get_ref() else {
            self.wrong(value, &format!("`{key}` is a table: write {key} = {{ … }}"));
            return None;
        };
        Some(Table { content, span: (value.span().start, value.span().end) })
    }

    /// Every key of `table` with its string.
    pub(crate) fn strings_by_key(&mut self, table: Table<'_>) -> Vec<(Word, Word)> {
        let mut found = Vec::new();
        for (key, value) in table.content {
            if let Some(word) = self.word(value, key.get_ref()) {
                found.push((Word { text: key.get_ref().to_string(), at: self.place(key.span()) }, word));
            }
        }
        found
    }

    /// The string at `key`.
    pub(crate) fn string(&mut self, table: Table<'_>, key: &str) -> Option<Word> {
        let value = table.content.get(key)?;
        self.word(value, key)
    }

    /// The string or strings at `key`; none if the key is absent.
    pub(crate) fn strings(&mut self, table: Table<'_>, key: &str) -> Option<Vec<Word>> {
        let value = table.content.get(key)?;
        let DeValue::Array(elements) = value.get_ref() else {
            return Some(self.word(value, key).into_iter().collect());
        };
        Some(elements.iter().filter_map(|e| self.word(e, key)).collect())
    }

    /// The point in time at `key`.
    pub(crate) fn time(&mut self, table: Table<'_>, key: &str) -> Option<(jiff::Timestamp, Place)> {
        let value = table.content.get(key)?;
        let at = self.place(value.span());
        let text = &self.lines.text()[at.span()];
        let is_time = |datetime: &toml::value::Datetime| {
            datetime.date.is_some() && datetime.time.is_some() && datetime.offset.is_some()
        };
        let (time, is_far): (Option<jiff::Timestamp>, _) = match value.get_ref() {
            DeValue::Datetime(datetime) => (text.parse().ok(), is_time(datetime)),
            _ => (None, false),
        };
        if time.is_none() {
            let help = if is_far {
                "later than times go: leave the key out for what holds for ever"
            } else {
                "write a date, a time and an offset without quotes: 2026-12-31T00:00:00Z"
            };
            self.add(
                Diagnostic::error(Code::BadValue, &at, format!("`{key}` is not a point in time")).help(help),
            );
        }
        Some((time?, at))
    }

    /// Where the value at `key` is.
    pub(crate) fn at_value(&self, table: Table<'_>, key: &str) -> Place {
        let span = table.content.get(key).map_or(table.span.0..table.span.1, Spanned::span);
        self.place(span)
    }

    /// The table or list of tables at `key`.
    pub(crate) fn table_or_tables<'t>(&mut self, table: Table<'t>, key: &str) -> Vec<Table<'t>> {
        match table.content.get(key).map(Spanned::get_ref) {
            Some(DeValue::Array(_)) => self.tables(table, key),
            _ => self.table(table, key).into_iter().collect(),
        }
    }

    /// The string at `key` that must be there.
    pub(crate) fn required(&mut self, table: Table<'_>, what: &str, key: &str) -> Option<Word> {
        self.require(table, what, key);
        self.string(table, key)
    }

    /// Notes that `table` lacks `key`, unless a misspelt one is there: that is one mistake and not two.
    pub(crate) fn require(&mut self, table: Table<'_>, what: &str, key: &str) {
        let misspelt = || table.content.keys().any(|found| nearest(found.get_ref(), [key]).is_some());
        if !table.has(key) && !misspelt() {
            let at = self.at(table);
            self.add(Diagnostic::error(Code::MissingKey, &at, format!("{what} lacks `{key}`")));
        }
    }

    fn word(&mut self, value: &Value<'_>, key: &str) -> Option<Word> {
        let DeValue::String(text) = value.get_ref() else {
            self.wrong(value, &format!("`{key}` is a string: write it in double quotes"));
            return None;
        };
        Some(Word { text: text.to_string(), at: self.place(value.span()) })
    }

    fn wrong(&mut self, value: &Value<'_>, help: &str) {
        let at = self.place(value.span());
        let kind = value.get_ref().type_str();
        let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
        let message = format!("{article} {kind} stands where it means nothing");
        self.add(Diagnostic::error(Code::BadValue, &at, message).help(help));
    }
}
