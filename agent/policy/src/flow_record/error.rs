/// What keeps a line from being a record. The messages are short, whatever the line holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is not UTF-8.
    #[error("not text: records are JSON in UTF-8")]
    NotText {
        /// Of the first byte that is none, from 1.
        column: usize,
    },
    /// It is not JSON, or lacks a field.
    #[error("{message}")]
    Json {
        /// What is wrong.
        message: String,
        /// Where, in bytes from 1.
        column: usize,
    },
    /// A field is missing that this record must have.
    #[error("`{field}` is missing: {why}")]
    Missing {
        /// Its name.
        field: &'static str,
        /// What it is needed for.
        why: &'static str,
    },
    /// A field has a value that it cannot have.
    #[error("`{field}` is {value}, and should be {expected}")]
    Value {
        /// Its name.
        field: &'static str,
        /// Its value in quotes, shortened.
        value: String,
        /// What it could be.
        expected: &'static str,
    },
}

impl RecordError {
    /// The most characters of a line that a message repeats.
    const SHOWN: usize = 80;

    /// Where in the line, in bytes from 1, if one place is to blame.
    pub fn column(&self) -> Option<usize> {
        match self {
            Self::NotText { column } | Self::Json { column, .. } => Some(*column),
            Self::Missing { .. } | Self::Value { .. } => None,
        }
    }

    pub(super) fn json(error: &serde_json::Error) -> Self {
        let message = error.to_string();
        // It takes the line for a file of its own.
        let place = format!(" at line {} column {}", error.line(), error.column());
        Self::Json {
            message: shortened(message.strip_suffix(&place).unwrap_or(&message)),
            column: error.column(),
        }
    }

    pub(super) fn value(field: &'static str, value: &str, expected: &'static str) -> Self {
        Self::Value { field, value: quoted(value), expected }
    }
}

/// What cannot be printed is spelt out, and counts as it is spelt.
fn quoted(text: &str) -> String {
    let mut shown = String::new();
    for letter in text.chars() {
        let spelt = if letter == '\'' { letter.to_string() } else { letter.escape_debug().to_string() };
        if shown.len() + spelt.len() > RecordError::SHOWN {
            return format!("\"{shown}…\"");
        }
        shown += &spelt;
    }
    format!("\"{shown}\"")
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(RecordError::SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
