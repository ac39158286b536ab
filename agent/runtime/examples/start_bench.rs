//! Measures what a container costs: time to start, from kill to known end, to remove; memory of a shim.
//!
//! `cargo build --release -p skep-shim && cargo run --release -p skep-runtime --example start_bench`, as root
//! with `/bin/busybox`. Prints one line a figure. Of memory, PSS: what is shared is counted once in all.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring program for people")]

use std::io::Cursor;
use std::path::PathBuf;
use std::time::Duration;

use skep_runtime::{Config, ContainerSpec, ContainerState, Engine, ImageConfigChanges, Registries};
use tokio::time::Instant;

const ALONE: usize = 30;
const TOGETHER: usize = 50;

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let shim: PathBuf = program.parent().unwrap().parent().unwrap().join("skep-shim");
    let cgroup_prefix = format!("skep-bench/{}", std::process::id());
    let config = Config {
        state_dir: dir.path().join("state"),
        shim,
        cgroup_prefix: cgroup_prefix.clone(),
        registries: Registries::default(),
        open_files: None,
    };
    let engine = Engine::open(config).await.unwrap();
    let since = Instant::now();
    engine.import_rootfs(Cursor::new(busybox()), "busybox", ImageConfigChanges::default()).await.unwrap();
    println!("import of busybox: {:.1} ms", ms(since.elapsed()));
    println!("load: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim());

    // One that stays: the first and the last of a node also make and remove the cgroups that all share.
    engine.create(spec("stays")).await.unwrap();
    engine.start("stays").await.unwrap();
    let (mut create, mut start, mut end, mut remove) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in 0..ALONE {
        let id = format!("a{n}");
        create.push(timed(engine.create(spec(&id))).await);
        start.push(timed(engine.start(&id)).await);
        engine.kill(&id, 9).await.unwrap();
        end.push(timed(engine.wait(&id)).await);
        remove.push(timed(engine.remove(&id)).await);
    }
    show("create", create);
    show("start", start);
    show("SIGKILL to known end", end);
    show("remove", remove);

    engine.remove("stays").await.unwrap();

    let since = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for n in 0..TOGETHER {
        let engine = engine.clone();
        all.spawn(async move {
            let id = format!("b{n}");
            engine.create(spec(&id)).await.unwrap();
            timed(engine.start(&id)).await
        });
    }
    let each = all.join_all().await;
    println!("create and start of {TOGETHER} at once: {:.0} ms", ms(since.elapsed()));
    show("start, among these", each);
    memory(&dir.path().join("state"), &cgroup_prefix);

    let since = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for container in engine.list() {
        let engine = engine.clone();
        all.spawn(async move { engine.remove(&container.id).await.unwrap() });
    }
    all.join_all().await;
    println!("kill and removal of {TOGETHER} at once: {:.0} ms", ms(since.elapsed()));
    let running = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
    assert!(!engine.list().iter().any(|c| running(&c.state)));
}

fn spec(id: &str) -> ContainerSpec {
    ContainerSpec {
        id: id.to_owned(),
        image: "busybox".to_owned(),
        args: Some(vec!["/bin/busybox".to_owned(), "sleep".to_owned(), "600".to_owned()]),
        hostname: id.to_owned(),
        ..ContainerSpec::default()
    }
}

fn busybox() -> Vec<u8> {
    let bytes = std::fs::read("/bin/busybox").unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len().try_into().unwrap());
    tar.append_data(&mut header, "bin/busybox", &bytes[..]).unwrap();
    tar.into_inner().unwrap()
}

async fn timed<T, E: std::fmt::Debug>(work: impl Future<Output = Result<T, E>>) -> Duration {
    let since = Instant::now();
    work.await.unwrap();
    since.elapsed()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| ms(times[(times.len() - 1) * percent / 100]);
    println!("{what}: median {:.1} ms, min {:.1}, p90 {:.1}, max {:.1}", at(50), at(0), at(90), at(100));
}

/// Shims are found by their containers' `started.json`.
fn memory(state: &std::path::Path, prefix: &str) {
    let (mut total, mut count) = (0_u64, 0_u64);
    for entry in std::fs::read_dir(state.join("containers")).unwrap() {
        let started = std::fs::read(entry.unwrap().path().join("started.json")).unwrap();
        let started: serde_json::Value = serde_json::from_slice(&started).unwrap();
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", started["shim_pid"])).unwrap();
        let pss = rollup.lines().find_map(|l| l.strip_prefix("Pss:")).unwrap();
        total += pss.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
        count += 1;
    }
    println!("PSS of {count} shims ({prefix}): {total} KiB, {} KiB each", total / count);
}
