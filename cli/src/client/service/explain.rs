//! `skep service explain` and `skep service create --dry-run`: why tasks wait, and where they would go.

use serde_json::Value;

use crate::client::{
    connection::{Connection, escape},
    output::{print, table, text},
};

/// Says why tasks of a service wait.
pub(crate) async fn run(daemon: &Connection, service: &str) -> anyhow::Result<()> {
    let waiting = daemon.get(&format!("/skep/services/{}/explain", escape(service))).await?;
    print(&waiting_text(&waiting))
}

/// Says where the tasks of a spec would go.
pub(crate) async fn plan(daemon: &Connection, spec: &impl serde::Serialize) -> anyhow::Result<()> {
    let plan = daemon.post("/skep/services/plan", spec).await?;
    print(&plan_text(&plan))
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn waiting_text(waiting: &Value) -> String {
    let groups: Vec<&Value> = waiting.as_array().into_iter().flatten().collect();
    if groups.is_empty() {
        return "no task waits for a node\n".to_owned();
    }
    groups
        .iter()
        .map(|group| {
            let names: Vec<&str> = list(group, "Tasks").map(|task| text(task, "/Name")).collect();
            let rest = names.len().saturating_sub(1);
            let more = if rest > 0 { format!(" and {rest} more like it") } else { String::new() };
            let first = names.first().copied().unwrap_or_default();
            let note = group["Note"].as_str().map(|note| format!("  {note}\n")).unwrap_or_default();
            format!("{first}{more}: {}\n{note}{}", text(group, "/Err"), reasons(group))
        })
        .collect()
}

fn plan_text(plan: &Value) -> String {
    let mut rows = vec![vec!["NODE".to_owned(), "TASKS".to_owned()]];
    for node in list(plan, "Placed") {
        rows.push(vec![text(node, "/Hostname").to_owned(), node["Tasks"].to_string()]);
    }
    let mut out = table(&rows);
    let n_waiting = plan["Waiting"].as_u64().unwrap_or(0);
    if n_waiting > 0 {
        let tasks = if n_waiting == 1 { "1 task".to_owned() } else { format!("{n_waiting} tasks") };
        out.push_str(&format!("{tasks} would wait: {}\n", text(plan, "/Err")));
        for victims in list(plan, "Preempted") {
            let tasks = if victims["Tasks"] == 1 { "task" } else { "tasks" };
            let service = text(victims, "/Service");
            out.push_str(&format!("would preempt {} {tasks} of service {service}\n", victims["Tasks"]));
        }
        out.push_str(&reasons(plan));
    } else if list(plan, "Placed").next().is_none() && !text(plan, "/Err").is_empty() {
        out.push_str(&format!("{}\n{}", text(plan, "/Err"), reasons(plan)));
    } else {
        // That a node would not take one more is no matter here.
        out.push_str(&shown(list(plan, "Nodes").flat_map(missed).collect()));
    }
    out
}

/// Node by node, and what would make it fit.
fn reasons(from: &Value) -> String {
    let mut rows = Vec::new();
    for node in list(from, "Nodes") {
        for refusal in list(node, "Refusals") {
            let name = format!("  {}", text(node, "/Hostname"));
            rows.push(vec![name, text(refusal, "/Filter").to_owned(), text(refusal, "/Message").to_owned()]);
        }
        rows.extend(missed(node));
    }
    let mut out = shown(rows);
    for remedy in list(from, "WouldFit").filter_map(Value::as_str) {
        out.push_str(&format!("  would fit: {remedy}\n"));
    }
    out
}

/// What should hold of a node and does not.
fn missed(node: &Value) -> Option<Vec<String>> {
    let missed: Vec<&str> = list(node, "Missed").filter_map(Value::as_str).collect();
    let words = format!("misses {}, so others come first", missed.join(", "));
    (!missed.is_empty()).then(|| vec![format!("  {}", text(node, "/Hostname")), "-".to_owned(), words])
}

fn shown(rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head = ["  NODE", "REFUSED BY", "BECAUSE IT"].map(str::to_owned).to_vec();
    table(&[vec![head], rows].concat())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_waits_is_told_node_by_node() {
        let group = json!([{
            "Tasks": [{ "Name": "web.1.x" }, { "Name": "web.2.y" }],
            "Err": "no suitable node (insufficient resources on 1 node)",
            "Nodes": [
                { "Hostname": "a", "Refusals": [{ "Filter": "resources", "Message": "lacks 1 CPU" }] },
                { "Hostname": "b", "Refusals": [], "Missed": ["node.labels.disk==ssd"] },
            ],
            "WouldFit": ["reserve less, or free 1 CPU on a"],
        }]);
        assert_eq!(
            waiting_text(&group),
            "web.1.x and 1 more like it: no suitable node (insufficient resources on 1 node)\n\
             \u{20} NODE    REFUSED BY   BECAUSE IT\n\
             \u{20} a       resources    lacks 1 CPU\n\
             \u{20} b       -            misses node.labels.disk==ssd, so others come first\n\
             \u{20} would fit: reserve less, or free 1 CPU on a\n"
        );
        assert_eq!(waiting_text(&json!([])), "no task waits for a node\n");
    }

    #[test]
    fn a_plan_says_how_many_each_node_gets() {
        let plan =
            json!({ "Placed": [{ "Hostname": "a", "Tasks": 2 }], "Waiting": 1, "Err": "no suitable node" });
        assert_eq!(plan_text(&plan), "NODE      TASKS\na         2\n1 task would wait: no suitable node\n");
        let preempted = json!([{ "Service": "a", "Tasks": 1 }, { "Service": "b", "Tasks": 2 }]);
        let plan = json!({ "Waiting": 2, "Err": "no room", "Preempted": preempted });
        assert_eq!(
            plan_text(&plan),
            "NODE      TASKS\n2 tasks would wait: no room\nwould preempt 1 task of service a\n\
             would preempt 2 tasks of service b\n"
        );
        let nobody = [json!({ "Filter": "constraints", "Message": "does not satisfy node.labels.a==b" })];
        let none = json!({
            "Placed": [], "Waiting": 0, "Err": "no node takes a task",
            "Nodes": [{ "Hostname": "a", "Refusals": nobody }],
        });
        assert_eq!(
            plan_text(&none),
            "NODE      TASKS\nno node takes a task\n\
             \u{20} NODE    REFUSED BY    BECAUSE IT\n\
             \u{20} a       constraints   does not satisfy node.labels.a==b\n"
        );
    }

    #[test]
    fn a_plan_says_what_is_missed_whether_or_not_anything_waits() {
        let refusals = [json!({ "Filter": "resources", "Message": "lacks 1 CPU" })];
        let plan = json!({
            "Placed": [{ "Hostname": "a", "Tasks": 1 }], "Waiting": 0, "Err": "",
            "Nodes": [{ "Hostname": "a", "Refusals": refusals },
                { "Hostname": "b", "Refusals": refusals, "Missed": ["node.labels.disk==ssd"] }],
        });
        assert_eq!(
            plan_text(&plan),
            "NODE      TASKS\na         1\n\
             \u{20} NODE    REFUSED BY   BECAUSE IT\n\
             \u{20} b       -            misses node.labels.disk==ssd, so others come first\n"
        );
    }
}
