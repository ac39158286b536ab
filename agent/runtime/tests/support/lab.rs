//! A place to try the engine on real containers: own state directory, own cgroups, images of busybox.
//!
//! Needs root, `/bin/busybox` (package busybox-static) and the shim, which `cargo build --release -p
//! skep-shim` puts beside the tests' own directory. What is missing is said on stderr, uncaptured.

#![expect(dead_code, reason = "each test program uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use skep_runtime::{Config, ContainerSpec, Engine, ImageConfigChanges, LogLine, LogOptions, Registries};

/// No container here needs longer; a test that waits this long has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: Config,
    pub(crate) engine: Engine,
}

/// A laboratory with the image `busybox:latest`, or `None` (said loudly) where that cannot be.
pub(crate) async fn lab() -> Option<Lab> {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path())?;
    let engine = Engine::open(config.clone()).await.unwrap();
    let changes = ImageConfigChanges { cmd: Some(strings(&["sh"])), ..ImageConfigChanges::default() };
    engine.import_rootfs(std::io::Cursor::new(busybox_tar()), "busybox", changes).await.unwrap();
    Some(Lab { dir, config, engine })
}

pub(crate) fn config(dir: &Path) -> Option<Config> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let skip = |why: &str| {
        say(why);
        None
    };
    if !rustix::process::geteuid().is_root() {
        return skip("tests of real containers need root");
    }
    if !Path::new("/bin/busybox").exists() {
        return skip("/bin/busybox is missing: apt-get install busybox-static");
    }
    let shim = shim();
    if !shim.exists() {
        return skip(&format!("{} is missing: cargo build --release -p skep-shim", shim.display()));
    }
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let cgroup_prefix = format!("skep-runtime-test/{}-{n}", std::process::id());
    Some(Config {
        state_dir: dir.join("state"),
        shim,
        cgroup_prefix,
        registries: Registries::default(),
        open_files: None,
    })
}

/// Says that a test is skipped. Not by eprintln!, which the test harness captures.
pub(crate) fn say(why: &str) {
    std::io::stderr().write_all(format!("\n*** SKIPPED: {why} ***\n").as_bytes()).unwrap();
}

/// `<target>/<profile>/skep-shim`; the test program is in `<target>/<profile>/deps`.
pub(crate) fn shim() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("skep-shim")
}

impl Lab {
    /// Creates, starts, waits; exit code and all of its output.
    pub(crate) async fn run(&self, spec: ContainerSpec) -> (i32, String) {
        let id = spec.id.clone();
        self.engine.create(spec).await.unwrap();
        self.engine.start(&id).await.unwrap();
        let exit = tokio::time::timeout(LIMIT, self.engine.wait(&id)).await.unwrap().unwrap();
        (exit.code, self.output(&id).await)
    }

    pub(crate) async fn output(&self, id: &str) -> String {
        let lines = self.lines(id, LogOptions::default()).await;
        lines.iter().map(|l| String::from_utf8_lossy(&l.bytes).into_owned()).collect()
    }

    pub(crate) async fn lines(&self, id: &str, options: LogOptions) -> Vec<LogLine> {
        let mut receiver = self.engine.logs(id, options).unwrap();
        let mut lines = Vec::new();
        let all = async {
            while let Some(line) = receiver.recv().await {
                lines.push(line);
            }
        };
        tokio::time::timeout(LIMIT, all).await.unwrap();
        lines
    }

    /// Waits until the container's output holds `text`.
    pub(crate) async fn wait_for(&self, id: &str, text: &str) {
        let mut receiver =
            self.engine.logs(id, LogOptions { follow: true, ..LogOptions::default() }).unwrap();
        let found = async {
            while let Some(line) = receiver.recv().await {
                if String::from_utf8_lossy(&line.bytes).contains(text) {
                    return true;
                }
            }
            false
        };
        assert!(tokio::time::timeout(LIMIT, found).await.unwrap(), "{id} ended without {text:?}");
    }

    /// Removes all containers and checks that nothing of them is left.
    pub(crate) async fn finish(self) {
        for container in self.engine.list() {
            self.engine.remove(&container.id).await.unwrap();
        }
        assert_eq!(std::fs::read_dir(self.config.state_dir.join("containers")).unwrap().count(), 0);
        let left: Vec<_> = std::fs::read_dir("/sys/fs/cgroup")
            .unwrap()
            .map(|h| h.unwrap().path().join(&self.config.cgroup_prefix))
            .chain([Path::new("/sys/fs/cgroup").join(&self.config.cgroup_prefix)])
            .filter(|p| p.exists())
            .collect();
        assert!(left.is_empty(), "cgroups are left: {left:?}");
    }
}

impl Drop for Lab {
    /// After a failed test: ends what it started.
    fn drop(&mut self) {
        for container in self.engine.list() {
            if let skep_runtime::ContainerState::Running { pid } = container.state {
                let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
                let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// A container of busybox that runs a shell script.
pub(crate) fn shell(id: &str, script: &str) -> ContainerSpec {
    ContainerSpec {
        id: id.to_owned(),
        image: "busybox".to_owned(),
        args: Some(strings(&["sh", "-c", script])),
        hostname: id.to_owned(),
        ..ContainerSpec::default()
    }
}

pub(crate) fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

/// What goes into a tar.
#[derive(Debug, Clone)]
pub(crate) enum File {
    Dir(&'static str, u32),
    Text(&'static str, &'static str),
    Link(&'static str, &'static str),
    Busybox,
}

pub(crate) fn tar(files: &[File]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        match file {
            File::Dir(path, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                header.set_size(0);
                tar.append_data(&mut header, path, std::io::empty()).unwrap();
            }
            File::Text(path, text) => {
                header.set_mode(0o644);
                header.set_size(text.len().try_into().unwrap());
                tar.append_data(&mut header, path, text.as_bytes()).unwrap();
            }
            File::Link(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, path, target).unwrap();
            }
            File::Busybox => {
                let bytes = std::fs::read("/bin/busybox").unwrap();
                header.set_mode(0o755);
                header.set_size(bytes.len().try_into().unwrap());
                tar.append_data(&mut header, "bin/busybox", &bytes[..]).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

pub(crate) fn busybox_tar() -> Vec<u8> {
    let mut files = vec![File::Dir("bin", 0o755), File::Busybox];
    let tools = ["bin/sh", "bin/cat", "bin/ls", "bin/id", "bin/sleep", "bin/dd", "bin/stat", "bin/readlink"];
    let more = ["bin/mount", "bin/touch", "bin/grep", "bin/ip", "bin/head", "bin/tr", "bin/env", "bin/mknod"];
    files.extend(tools.iter().chain(&more).map(|t| File::Link(t, "busybox")));
    files.extend([
        File::Dir("etc", 0o755),
        File::Text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n"),
        File::Text("etc/group", "root:x:0:\nweb:x:1001:\nextra:x:2000:web\n"),
        File::Dir("data", 0o750),
        File::Text("data/seed", "from the image\n"),
        File::Text("notexec", "plain\n"),
        File::Dir("tmp", 0o1777),
    ]);
    tar(&files)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn image_config(layers: &[Vec<u8>], config: serde_json::Value) -> String {
    let diff_ids: Vec<String> = layers.iter().map(|l| format!("sha256:{}", sha256(l))).collect();
    serde_json::json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "os": "linux",
        "created": "2026-01-02T03:04:05Z",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
}

/// Puts files into an archive in the order given.
pub(crate) fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len().try_into().unwrap());
        tar.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
