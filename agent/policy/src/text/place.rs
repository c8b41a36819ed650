use std::{fmt, ops::Range, sync::Arc};

/// One policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name as reports show it, such as the path that was given on the command line.
    pub name: String,
    /// Its content, shared by all clones.
    pub text: Arc<str>,
}

impl Source {
    /// A file of this name and content. A byte order mark is none of its characters.
    pub fn new(name: impl Into<String>, text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        let text = text.strip_prefix('\u{feff}').map_or_else(|| Arc::clone(&text), Arc::from);
        Self { name: name.into(), text }
    }
}

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Name of the file ([`Source::name`]).
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// First byte and the byte after the last.
    span: (usize, usize),
}

impl Place {
    /// The bytes of the file.
    pub(crate) fn span(&self) -> Range<usize> {
        self.span.0..self.span.1
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Finds lines and columns in one file.
pub(super) struct Lines<'s> {
    file: Arc<str>,
    text: &'s str,
    starts: Vec<usize>,
    /// How many characters begin before each block of the text: a line may be as long as the file. Empty if every byte is
    /// a character.
    characters: Vec<usize>,
}

/// Bytes in a block of [`Lines::characters`].
const BLOCK: usize = 256;

fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|b| !matches!(b, 0x80..0xc0)).count()
}

impl<'s> Lines<'s> {
    pub(super) fn new(source: &'s Source) -> Self {
        let newlines = source.text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        let blocks = source.text.as_bytes().chunks(BLOCK).scan(0, |before, block| {
            let here = *before;
            *before += characters(block);
            Some(here)
        });
        let all = characters(source.text.as_bytes());
        let counted = || blocks.chain([all]).collect();
        Self {
            file: source.name.as_str().into(),
            text: &source.text,
            starts: std::iter::once(0).chain(newlines).collect(),
            characters: if all == source.text.len() { Vec::new() } else { counted() },
        }
    }

    pub(super) fn text(&self) -> &'s str {
        self.text
    }

    pub(super) fn place(&self, span: Range<usize>) -> Place {
        let start = span.start.min(self.text.len());
        let line = self.starts.partition_point(|s| *s <= start) - 1;
        let before = self.characters_before(start) - self.characters_before(self.starts[line]);
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Place {
            file: Arc::clone(&self.file),
            line: number(line + 1),
            column: number(before + 1),
            span: (start, span.end.clamp(start, self.text.len())),
        }
    }

    /// How many characters begin before the byte at `at`.
    fn characters_before(&self, at: usize) -> usize {
        let block = at / BLOCK;
        let Some(before) = self.characters.get(block) else { return at };
        before + characters(&self.text.as_bytes()[block * BLOCK..at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_and_in_characters() {
        let source = Source::new("a.toml", "x\nÄb = 1\n");
        let lines = Lines::new(&source);
        let at = |start| {
            let p = lines.place(start..start + 1);
            (p.line, p.column)
        };
        assert_eq!(at(0), (1, 1));
        assert_eq!(at(2), (2, 1));
        assert_eq!(at(4), (2, 2));
        assert_eq!(at(source.text.len()), (3, 1));
        assert_eq!(at(usize::MAX - 1), (3, 1));
    }

    #[test]
    fn a_byte_order_mark_takes_no_column() {
        let source = Source::new("a.toml", "\u{feff}x = 1\n");
        assert_eq!(Lines::new(&source).place(0..1).column, 1);
        assert_eq!(&*source.text, "x = 1\n");
    }

    #[test]
    fn columns_are_counted_across_blocks() {
        for length in [BLOCK - 1, BLOCK, 2 * BLOCK, 3 * BLOCK + 1] {
            let source = Source::new("a.toml", format!("x\n{}y", "Ä".repeat(length)));
            let end = source.text.len();
            assert_eq!(Lines::new(&source).place(end - 1..end).column as usize, length + 1);
            assert_eq!(Lines::new(&source).place(end..end).column as usize, length + 2);
        }
    }
}
