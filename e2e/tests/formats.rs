//! What earlier builds stored is read: samples of whole state directories and of backups, one for each feature
//! level (`formats/README.md`). The real program looks at them, and what it finds is held against what the API of
//! that swarm said. What a newer build stored is refused, and not touched.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skep_api::{Secret, spec::ServiceSpec};
use skep_e2e::{Output, run, skep_program};
use skep_manager::{Keys, parse_unlock_key, recovery::backup};
use skep_raft::{StateMachine, WriteState, recover};
use skep_store::{FEATURE_LEVEL, Store, View};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// A sample, unpacked.
struct Sample {
    name: String,
    listed: Value,
    dir: TempDir,
}

impl Sample {
    fn unpack(name: &str) -> Sample {
        let place = samples().join(name);
        let listed = fs::read_to_string(place.with_extension("json")).expect("each sample has its listing");
        let packed = fs::File::open(place.with_extension("tar.zst")).expect("the sample is there");
        let dir = tempfile::tempdir().unwrap();
        tar::Archive::new(zstd::Decoder::new(packed).unwrap()).unpack(dir.path()).unwrap();
        if let Some(key) = serde_json::from_str::<Value>(&listed).unwrap()["UnlockKey"].as_str() {
            fs::write(dir.path().join("unlock-key"), key).unwrap();
        }
        let listed: Value = serde_json::from_str(&listed).unwrap();
        fs::write(dir.path().join("backup-key"), listed["BackupKey"].as_str().unwrap()).unwrap();
        Sample { name: name.to_owned(), listed, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program on its state directory.
    fn skep(&self, args: &[&str]) -> Output {
        let mut command = Command::new(skep_program());
        command.args(args).current_dir(self.dir.path()).env("RUST_BACKTRACE", "0");
        if self.listed["UnlockKey"].is_string() && args[1] != "backup" {
            command.args(["--unlock-key-file", "unlock-key"]);
        }
        run(&mut command, LIMIT).unwrap()
    }

    /// What `swarm check` says of each file.
    fn checked(&self) -> Vec<(String, String, String)> {
        let output = self.skep(&["swarm", "check", "--format", "json", "state"]);
        let reports: Vec<Value> =
            serde_json::from_str(&output.stdout).unwrap_or_else(|err| panic!("{err}: {output}"));
        let text = |report: &Value, key: &str| report[key].as_str().unwrap_or_default().to_owned();
        reports.iter().map(|one| (text(one, "Path"), text(one, "Verdict"), text(one, "Words"))).collect()
    }

    /// The state in its log and snapshot.
    fn store(&self) -> Store {
        let raft = self.path("state/manager/raft");
        let key = self.listed["UnlockKey"].as_str().map(|text| parse_unlock_key(text).unwrap());
        let keys = Keys::open(&raft, key.as_ref()).unwrap();
        let replica = Replica::default();
        let held =
            recover::read(&raft, &recover::lock(&raft).unwrap(), &keys, &replica, &mut |_, _| {}).unwrap();
        assert!(
            held.last > held.snapshot || self.name.ends_with("-locked"),
            "there is a log after the snapshot"
        );
        assert!(held.snapshot.is_some(), "there is a snapshot");
        replica.0.into_inner().unwrap()
    }

    /// All files and what is in them.
    fn bytes(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut found, mut dirs) = (BTreeMap::new(), vec![self.dir.path().to_owned()]);
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    found.insert(path.clone(), Sha256::digest(fs::read(&path).unwrap()).to_vec());
                }
            }
        }
        found
    }
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats")
}

/// The samples whose names begin so.
fn named(begin: &str) -> Vec<Sample> {
    let files = fs::read_dir(samples()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = files
        .filter_map(|file| {
            file.strip_suffix(".tar.zst").filter(|name| name.starts_with(begin)).map(str::to_owned)
        })
        .collect();
    names.sort();
    names.iter().map(|name| Sample::unpack(name)).collect()
}

/// What a manager is to its log.
#[derive(Default)]
struct Replica(Mutex<Store>);

impl StateMachine for Replica {
    fn apply(&self, _: u64, entry: &[u8]) -> Vec<u8> {
        self.0.lock().unwrap().apply(entry).answer
    }

    fn snapshot(&self) -> WriteState {
        unreachable!("nothing is written")
    }

    fn restore(&self, state: &mut (dyn Read + Send)) -> Result<(), String> {
        *self.0.lock().unwrap() = Store::restore(state).map_err(|error| error.to_string())?;
        Ok(())
    }
}

fn sorted(all: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut all: Vec<Value> = all.collect();
    all.sort_by_key(|one| one["ID"].as_str().unwrap().to_owned());
    all
}

/// With what the API always shows.
fn shown(spec: &ServiceSpec) -> Value {
    let mut spec = json!(spec);
    for (object, key, value) in [("", "Labels", json!({})), ("/TaskTemplate", "ForceUpdate", json!(0))] {
        let object = spec.pointer_mut(object).and_then(Value::as_object_mut).unwrap();
        object.entry(key).or_insert(value);
    }
    spec
}

/// As the API said it (`examples/samples.rs`).
fn listed(view: &View) -> Value {
    let node = |id: Option<skep_api::NodeId>| id.map_or(Value::Null, |id| json!(id.to_string()));
    json!({
        "FeatureLevel": view.feature_level(),
        "Cluster": view.cluster().unwrap().id.to_string(),
        "Nodes": sorted(view.nodes().map(|node| json!({
            "ID": node.id.to_string(), "Hostname": node.description.hostname,
            "Role": node.spec.role.as_str(), "Labels": node.spec.labels,
        }))),
        "Networks": sorted(view.networks().map(|network| json!({
            "ID": network.id.to_string(), "Name": network.spec.name,
            "Subnet": network.subnets.first().map(|subnet| subnet.subnet.to_string()),
        }))),
        "Services": sorted(view.services().map(|service| json!({
            "ID": service.id.to_string(), "Version": service.meta.version, "Spec": shown(&service.spec),
        }))),
        "Tasks": sorted(view.tasks().map(|task| json!({
            "ID": task.id.to_string(), "ServiceID": task.service_id.to_string(),
            "Slot": task.slot, "NodeID": node(task.node_id),
            "State": task.status.state.as_str(), "DesiredState": task.desired_state.as_str(),
        }))),
    })
}

#[track_caller]
fn assert_same(sample: &Sample, view: &View) {
    let mut found = listed(view);
    for key in ["UnlockKey", "BackupKey"] {
        found[key] = sample.listed[key].clone();
    }
    for (key, expect) in sample.listed.as_object().unwrap() {
        assert_eq!(&found[key], expect, "{} of {}", key, sample.name);
    }
}

#[test]
fn what_every_level_stored_is_read() {
    let samples = named("level-");
    for level in 1..=FEATURE_LEVEL {
        let is_there = |name: String| samples.iter().any(|sample| sample.name == name);
        assert!(is_there(format!("level-{level}")), "make the samples of level {level}: formats/README.md");
    }
    for sample in samples {
        for (path, verdict, words) in sample.checked() {
            // A certificate lapses, and is all right otherwise.
            let is_lapsed = path.ends_with("identity") && words.ends_with("it has lapsed");
            assert!(verdict == "ok" || is_lapsed, "{}: {path} is {verdict}: {words}", sample.name);
        }
        let before = sample.bytes();
        assert_same(&sample, &sample.store().view());
        let said = sample.skep(&["swarm", "recover", "--state-dir", "state"]).ok();
        let count = |key: &str| sample.listed[key].as_array().unwrap().len();
        let words =
            format!("{} services, {} tasks, {} nodes", count("Services"), count("Tasks"), count("Nodes"));
        assert!(said.contains(&words) && said.contains("Nothing was changed"), "{words}: {said}");
        for (file, key) in
            [("open.backup", ""), ("sealed.backup", sample.listed["BackupKey"].as_str().unwrap())]
        {
            let mut args = vec!["swarm", "backup", "--verify"];
            let key_file = if sample.listed["UnlockKey"].is_string() { "unlock-key" } else { "backup-key" };
            if !key.is_empty() {
                args.extend(["--key-file", "backup-key"]);
            } else if sample.listed["UnlockKey"].is_string() {
                args.extend(["--key-file", key_file]);
            }
            let said = sample.skep(&[&args[..], &[file]].concat()).ok();
            assert!(said.contains("can be restored"), "{said}");
            if !key.is_empty() {
                let (_, store) = backup::read(&sample.path(file), &Secret::new(key)).unwrap();
                assert_same(&sample, &store.view());
            }
        }
        assert_eq!(sample.bytes(), before, "looking changes nothing");
        // It can be gone on from.
        let said = sample.skep(&["swarm", "recover", "--state-dir", "state", "--yes"]).ok();
        assert!(said.contains("Start its daemon now"), "{said}");
        let bad: Vec<_> = sample
            .checked()
            .into_iter()
            .filter(|(path, verdict, _)| verdict != "ok" && !path.ends_with("identity"))
            .collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
}

#[test]
fn what_a_newer_build_stored_is_refused_and_not_touched() {
    let samples = named("newer");
    assert!(!samples.is_empty(), "there is a sample of a newer build");
    for sample in samples {
        let level = sample.listed["FeatureLevel"].as_u64().unwrap();
        assert!(
            level > u64::from(FEATURE_LEVEL),
            "make the samples of a newer build anew: formats/README.md"
        );
        // With and without the file that says it before anything is read.
        for has_file in [true, false] {
            if !has_file {
                fs::remove_file(sample.path("state/manager/feature-level")).unwrap();
            }
            let before = sample.bytes();
            for args in [
                &["swarm", "recover", "--state-dir", "state"][..],
                &["swarm", "recover", "--state-dir", "state", "--yes"],
            ] {
                let said = sample.skep(args).refused();
                assert!(
                    said.contains(&format!("feature level {level}")) && said.contains("newer build"),
                    "{said}"
                );
            }
            if sample.listed["UnlockKey"].is_null() {
                let said = sample.skep(&["swarm", "backup", "--verify", "open.backup"]).refused();
                assert!(
                    said.contains(&format!("feature level {level}")) && said.contains("newer build"),
                    "{said}"
                );
            }
            assert_eq!(sample.bytes(), before, "nothing was changed");
        }
    }
}
