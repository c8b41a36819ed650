//! Where a key that stands twice stood first: the TOML parser tells of the second place only.

use std::{collections::HashMap, ops::Range};

use toml_parser::{
    ErrorSink, Source, Span,
    decoder::Encoding,
    parser::{EventReceiver, RecursionGuard, parse_document},
};

/// A key that was there before.
#[derive(Debug)]
pub(super) struct Again {
    /// The key.
    pub(super) key: String,
    /// Where it stood first.
    pub(super) first: Range<usize>,
    /// If it is the name in `[kind.NAME]`: the kind.
    pub(super) kind: Option<String>,
    /// Where the last key of its table's header begins, unless it is in a header itself: a table that is opened twice
    /// repeats its keys.
    pub(super) header: Option<usize>,
}

/// The keys of `text` that were there before, in a header or in their table, by the byte where they begin.
pub(super) fn repeated(text: &str) -> HashMap<usize, Again> {
    /// As deep as values are read.
    const DEEPEST: u32 = 80;
    let source = Source::new(text);
    let mut keys = Keys {
        source,
        tables: vec![Table { key: String::new(), depth: Some(0) }],
        known: HashMap::new(),
        again: HashMap::new(),
        around: vec![ROOT],
        at: ROOT,
        dotted: false,
        header: None,
        in_header: false,
    };
    let tokens = source.lex().into_vec();
    parse_document(&tokens, &mut RecursionGuard::new(&mut keys, DEEPEST), &mut ());
    keys.again
}

/// What a key leads to, be it a table or not.
struct Table {
    key: String,
    /// How many keys lead to it; none if a list is on the way.
    depth: Option<usize>,
}

/// Index into [`Keys::tables`].
const ROOT: usize = 0;

struct Keys<'s> {
    source: Source<'s>,
    tables: Vec<Table>,
    /// By table and key: what it leads to, and where it stood first.
    known: HashMap<(usize, String), (usize, Range<usize>)>,
    again: HashMap<usize, Again>,
    /// The tables that are open, the innermost last: keys belong to it.
    around: Vec<usize>,
    /// Where the keys that were read last have led.
    at: usize,
    /// Has a dot followed the last one?
    dotted: bool,
    /// Where the last key of the last header begins.
    header: Option<usize>,
    in_header: bool,
}

impl Keys<'_> {
    fn table(&mut self, key: String, depth: Option<usize>) -> usize {
        self.tables.push(Table { key, depth });
        self.tables.len() - 1
    }

    fn open_header(&mut self) {
        self.around = vec![ROOT];
        (self.header, self.in_header) = (None, true);
    }

    fn close_header(&mut self) {
        self.around = vec![self.at];
        self.in_header = false;
    }
}

impl EventReceiver for Keys<'_> {
    fn std_table_open(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.open_header();
    }

    fn std_table_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.close_header();
    }

    fn array_table_open(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.open_header();
    }

    fn array_table_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.at = self.table(String::new(), None);
        self.close_header();
    }

    fn inline_table_open(&mut self, _: Span, _: &mut dyn ErrorSink) -> bool {
        // It may be one of a list. What is in it is nowhere else.
        let within = self.table(String::new(), None);
        self.around.push(within);
        true
    }

    fn inline_table_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.around.pop();
    }

    fn key_sep(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.dotted = true;
    }

    fn simple_key(&mut self, span: Span, encoding: Option<Encoding>, _: &mut dyn ErrorSink) {
        let from = if std::mem::take(&mut self.dotted) {
            self.at
        } else {
            self.around.last().copied().unwrap_or(ROOT)
        };
        let Some(raw) = self.source.get(span) else { return };
        let mut key = String::new();
        toml_parser::Raw::new_unchecked(raw.as_str(), encoding, span).decode_key(&mut key, &mut ());
        let header = if self.in_header { self.header.replace(span.start()).and(None) } else { self.header };
        if let Some((table, first)) = self.known.get(&(from, key.clone())) {
            self.at = *table;
            let above = &self.tables[from];
            let kind = (above.depth == Some(1)).then(|| above.key.clone());
            self.again.insert(span.start(), Again { key, first: first.clone(), kind, header });
        } else {
            self.at = self.table(key.clone(), self.tables[from].depth.map(|depth| depth + 1));
            self.known.insert((from, key), (self.at, span.start()..span.end()));
        }
    }
}
