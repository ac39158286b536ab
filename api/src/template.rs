//! Placeholders in Env and Hostname: `{{.Node.Hostname}}`. Names are Swarm's (`SK:template/context.go`).
//!
//! A placeholder is one name of the list below. The rest of Go's template language (functions, conditions,
//! labels by index) is refused by name at creation.

/// What the placeholders stand for.
#[derive(Clone, Debug, Default)]
pub struct TaskFacts {
    /// `.Service.ID`
    pub service_id: String,
    /// `.Service.Name`
    pub service_name: String,
    /// `.Node.ID`
    pub node_id: String,
    /// `.Node.Hostname`
    pub node_hostname: String,
    /// `.Task.ID`
    pub task_id: String,
    /// `.Task.Name`
    pub task_name: String,
    /// `.Task.Slot`
    pub slot: String,
}

/// A placeholder that is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    /// `{{` without `}}`.
    #[error("'{0}': a placeholder is not closed by }}}}")]
    Open(String),
    /// Not of the list.
    #[error(
        "placeholder '{{{{{0}}}}}' is not supported yet; supported are .Service.ID, .Service.Name, .Node.ID, \
         .Node.Hostname, .Task.ID, .Task.Name and .Task.Slot"
    )]
    Unknown(String),
}

/// Puts the facts in the places of the placeholders.
///
/// # Errors
/// [`TemplateError`] names the placeholder.
pub fn expand(text: &str, facts: &TaskFacts) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, behind) = after.split_once("}}").ok_or_else(|| TemplateError::Open(text.to_owned()))?;
        out.push_str(before);
        out.push_str(match name.trim() {
            ".Service.ID" => &facts.service_id,
            ".Service.Name" => &facts.service_name,
            ".Node.ID" => &facts.node_id,
            ".Node.Hostname" => &facts.node_hostname,
            ".Task.ID" => &facts.task_id,
            ".Task.Name" => &facts.task_name,
            ".Task.Slot" => &facts.slot,
            _ => return Err(TemplateError::Unknown(name.to_owned())),
        });
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders() {
        let facts = TaskFacts { node_hostname: "n1".into(), slot: "3".into(), ..TaskFacts::default() };
        for (text, expect) in [
            ("plain", Ok("plain")),
            ("A={{.Node.Hostname}}-{{ .Task.Slot }}!", Ok("A=n1-3!")),
            ("{{.Node.Hostname", Err("not closed")),
            ("{{if true}}x{{end}}", Err("'{{if true}}' is not supported yet")),
        ] {
            match (expand(text, &facts), expect) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(got), Err(want)) => assert!(got.to_string().contains(want), "{got}"),
                (got, want) => panic!("{text}: {got:?}, expected {want:?}"),
            }
        }
    }
}
