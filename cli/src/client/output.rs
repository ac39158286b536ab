//! What commands print: Docker's tables and JSON lines.

#[cfg(not(test))]
use std::io::Write as _;

use anyhow::{Context as _, bail};
use serde_json::Value;

#[cfg(test)]
thread_local! {
    /// What the commands of a test printed.
    pub(crate) static PRINTED: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Prints to stdout; a closed pipe ends the command.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    print_bytes(text.as_bytes())
}

/// The same of what may be no text.
pub(crate) fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    #[cfg(test)]
    PRINTED.with_borrow_mut(|all| all.extend_from_slice(bytes));
    #[cfg(not(test))]
    {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
    }
    Ok(())
}

/// The narrowest column with its gap, and the gap (Docker's tables).
const CELL_MIN: usize = 10;
const GAP: usize = 3;

/// A table: the first row is the head.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let widest = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        (widest.unwrap_or(0) + GAP).max(CELL_MIN)
    };
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if at + 1 < row.len() {
                let used = cell.chars().count();
                out.extend(std::iter::repeat_n(' ', widths[at].saturating_sub(used)));
            }
        }
        out.push('\n');
    }
    out
}

/// How a list is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    Table,
    Json,
}

impl Format {
    /// Reads the `--format` flag.
    pub(crate) fn parse(text: Option<&str>) -> anyhow::Result<Self> {
        match text {
            None | Some("" | "table") => Ok(Self::Table),
            Some("json" | "{{json .}}") => Ok(Self::Json),
            Some(other) => {
                bail!("--format '{other}': templates are not supported by skep yet; use table or json")
            }
        }
    }
}

/// Prints a list: `rows` without the head, and an object with the same content for JSON.
pub(crate) fn list(format: Format, head: &[&str], rows: Vec<(Vec<String>, Value)>) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => {
            let head = head.iter().map(|&word| word.to_owned()).collect();
            let all: Vec<Vec<String>> =
                std::iter::once(head).chain(rows.into_iter().map(|(row, _)| row)).collect();
            table(&all)
        }
        Format::Json => rows.iter().map(|(_, value)| format!("{value}\n")).collect(),
    };
    print(&text)
}

/// Prints one object whole, indented as docker does.
pub(crate) fn json(value: &Value) -> anyhow::Result<()> {
    let mut out = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    serde::Serialize::serialize(value, &mut serde_json::Serializer::with_formatter(&mut out, form))?;
    out.push(b'\n');
    print_bytes(&out)
}

/// An object's version, which an update of it names.
pub(crate) fn version(object: &Value) -> anyhow::Result<u64> {
    object
        .pointer("/Version/Index")
        .and_then(Value::as_u64)
        .context("the daemon did not say the object's version")
}

/// A field's text; empty when it is absent or something else.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// An id as tables show it.
pub(crate) fn short(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..12).unwrap_or(id)
}

/// `Running` for `running`.
pub(crate) fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Compares names so that `web.2` comes before `web.10`.
pub(crate) fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let key = |text: &str| {
        let mut parts: Vec<(String, u64)> = vec![(String::new(), 0)];
        let mut in_number = false;
        for c in text.chars() {
            match c.to_digit(10) {
                Some(digit) => {
                    if let Some(last) = parts.last_mut() {
                        last.1 = last.1.saturating_mul(10).saturating_add(u64::from(digit));
                    }
                    in_number = true;
                }
                None => {
                    if in_number {
                        parts.push((String::new(), 0));
                        in_number = false;
                    }
                    if let Some(last) = parts.last_mut() {
                        last.0.push(c);
                    }
                }
            }
        }
        parts
    };
    key(a).cmp(&key(b)).then_with(|| a.cmp(b))
}

/// An image's name without the digest, if it has a name.
pub(crate) fn image_name(image: &str) -> &str {
    image.split_once('@').map_or(image, |(name, _)| if name.is_empty() { image } else { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_look_like_dockers() {
        let row = |cells: &[&str]| cells.iter().map(|&cell| cell.to_owned()).collect();
        let rows: Vec<Vec<String>> = vec![
            row(&["ID", "NAME", "MODE", "PORTS"]),
            row(&["73bi7kv1hmj5", "web", "replicated", "*:8080->80/tcp"]),
        ];
        assert_eq!(
            table(&rows),
            "ID             NAME      MODE         PORTS\n73bi7kv1hmj5   web       replicated   *:8080->80/tcp\n"
        );
    }

    #[test]
    fn names_sort_as_people_count() {
        let mut names = ["web.10", "web.2", "api.1", "web.1"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["api.1", "web.1", "web.2", "web.10"]);
    }
}
