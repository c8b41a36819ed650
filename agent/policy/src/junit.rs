//! Results of tests in the form that CI systems read (JUnit XML).

use std::fmt::Write;

use crate::prove::TestResult;

/// The results in the form that CI systems read (JUnit XML).
pub fn junit(results: &[TestResult]) -> String {
    let failed = results.iter().filter(|r| !r.passed).count();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(xml, "<testsuite name=\"bulkhead\" tests=\"{}\" failures=\"{failed}\">", results.len());
    for r in results {
        let (name, file) = (escape(&r.name), escape(&r.file));
        let _ = write!(
            xml,
            "  <testcase name=\"{name}\" classname=\"{file}\" file=\"{file}\" line=\"{}\"",
            r.line
        );
        if r.passed {
            xml.push_str("/>\n");
        } else {
            let text = escape(&r.failures.join("\n"));
            let _ =
                writeln!(xml, ">\n    <failure message=\"not as expected\">{text}</failure>\n  </testcase>");
        }
    }
    xml.push_str("</testsuite>\n");
    xml
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            // XML 1.0 has no way to write these (section 2.2, Char).
            '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            c if c.is_control() && !matches!(c, '\n' | '\t') => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, failures: &[&str]) -> TestResult {
        TestResult {
            name: name.to_owned(),
            file: "shop.toml".to_owned(),
            line: 7,
            passed: failures.is_empty(),
            connections: 1,
            failures: failures.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    #[test]
    fn ci_systems_are_told_what_failed_in_xml() {
        let xml = junit(&[result("open", &["denied: web -> db tcp/5432"]), result("shut", &[])]);
        assert!(xml.contains("tests=\"2\" failures=\"1\""), "{xml}");
        assert!(xml.contains("web -&gt; db tcp/5432"), "{xml}");
    }

    #[test]
    fn what_xml_cannot_say_is_replaced() {
        let xml = junit(&[result("a\u{fffe}b\u{ffff}c\u{1}d\u{85}e\nf", &[])]);
        assert!(xml.contains("name=\"a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}e\nf\""), "{xml}");
    }
}
