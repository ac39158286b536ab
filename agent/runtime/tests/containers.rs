//! Real containers: what runs in them sees Docker's world, and its end is told rightly.

#[path = "support/lab.rs"]
mod lab;

use std::process::Command;

use lab::{LIMIT, lab, shell, strings};
use skep_runtime::{
    ContainerError, ContainerSpec, ContainerState, Limits, LogConfig, LogOptions, LogStream, Mount,
    MountKind, Ulimit, VolumeError,
};

fn mount(kind: MountKind, source: Option<&str>, target: &str) -> Mount {
    Mount {
        kind,
        source: source.map(str::to_owned),
        target: target.to_owned(),
        read_only: false,
        tmpfs_size: None,
        tmpfs_mode: None,
        no_copy: false,
        labels: std::collections::BTreeMap::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_code_and_output_are_kept() {
    let Some(lab) = lab().await else { return };
    let (code, output) = lab.run(shell("a", "echo out; echo err >&2; printf rest; exit 7")).await;
    assert_eq!(code, 7);
    assert_eq!(output.len(), "out\nerr\nrest".len());
    let only = |stdout| LogOptions { stdout, stderr: !stdout, ..LogOptions::default() };
    let stdout = lab.lines("a", only(true)).await;
    assert_eq!(stdout.iter().map(|l| l.bytes.as_slice()).collect::<Vec<_>>(), [b"out\n".as_slice(), b"rest"]);
    let stderr = lab.lines("a", only(false)).await;
    assert_eq!((stderr.len(), stderr[0].stream), (1, LogStream::Stderr));

    let info = &lab.engine.list()[0];
    assert!(matches!(&info.state, ContainerState::Exited(e) if e.code == 7 && !e.oom_killed), "{info:?}");
    assert!(matches!(lab.engine.start("a").await, Err(ContainerError::AlreadyRan(_))));
    assert!(matches!(lab.engine.kill("a", 9).await, Err(ContainerError::NotRunning(_))));
    lab.engine.remove("a").await.unwrap();
    lab.engine.remove("a").await.unwrap();
    assert!(matches!(lab.engine.wait("a").await, Err(ContainerError::NoSuchContainer(_))));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_sees_what_docker_would_show_it() {
    let Some(lab) = lab().await else { return };
    let script = "id; pwd; echo $HOME $HOSTNAME $X; env | grep ^PATH; cat /etc/hosts /etc/hostname \
                  /etc/resolv.conf; touch /tmp/x && stat -c %u:%g /tmp/x";
    let spec = ContainerSpec {
        env: strings(&["X=y z"]),
        workdir: Some("/made/for/it".to_owned()),
        user: Some("web".to_owned()),
        groups: strings(&["77"]),
        hosts: "10.0.0.9 peer\n".to_owned(),
        resolv_conf: "nameserver 10.0.0.1\n".to_owned(),
        ..shell("env", script)
    };
    let (code, output) = lab.run(spec).await;
    assert_eq!(
        output,
        "uid=1000(web) gid=1001(web) groups=77,1001(web),2000(extra)\n/made/for/it\n/home/web env y z\n\
         PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n10.0.0.9 peer\nenv\n\
         nameserver 10.0.0.1\n1000:1001\n"
    );
    assert_eq!(code, 0);

    let script = "grep CapEff /proc/self/status; grep CapBnd /proc/self/status; grep SigIgn /proc/self/status; \
                  echo [$(cat /proc/interrupts)$(ls /sys/firmware)]; \
                  echo 1 > /proc/sys/kernel/panic; ls /dev; mount | grep ' / '; \
                  mknod /tmp/disk b 8 0 && cat /tmp/disk; readlink /proc/self/fd/0; ls /proc/self/fd | tr '\\n' ' '";
    let (_, output) = lab.run(shell("caps", script)).await;
    assert!(output.contains("CapEff:\t00000000a80425fb"), "{output}");
    assert!(output.contains("CapBnd:\t00000000a80425fb"), "{output}");
    // Of the two above 31 glibc makes use itself.
    let ignored = output.lines().find_map(|l| l.strip_prefix("SigIgn:\t")).unwrap();
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 0x7fff_ffff, 0, "{output}");
    assert!(output.contains("\n[]\n"), "{output}");
    assert!(output.contains("Read-only file system"), "{output}");
    assert!(output.contains("can't open '/tmp/disk'"), "{output}");
    assert!(output.contains("\n/dev/null\n"), "{output}");
    for device in
        ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "stdout"]
    {
        assert!(output.lines().any(|l| l == device), "{device} in {output}");
    }
    // 3 is the directory that ls reads; nothing of ours came along.
    assert!(output.ends_with("0 1 2 3 "), "{output}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_out_of_memory_is_told() {
    let Some(lab) = lab().await else { return };
    let limits = Limits { memory_bytes: 16 << 20, ..Limits::default() };
    let hungry = ContainerSpec { limits, ..shell("oom", "exec head -c 200000000 /dev/zero | grep -c x") };
    let (_, _) = lab.run(hungry).await;
    let exit = lab.engine.wait("oom").await.unwrap();
    assert!(exit.oom_killed, "{exit:?}");
    let only = ContainerSpec {
        limits,
        args: Some(strings(&["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"])),
        ..shell("oom2", "")
    };
    let (code, _) = lab.run(only).await;
    assert_eq!(code, 137);
    assert!(lab.engine.wait("oom2").await.unwrap().oom_killed);

    let limits = Limits { pids: 5, ..Limits::default() };
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo all";
    let (_, output) = lab.run(ContainerSpec { limits, ..shell("pids", script) }).await;
    assert!(output.contains("can't fork") && !output.contains("all\n"), "{output}");

    let limits = Limits { nano_cpus: 250_000_000, ..Limits::default() };
    let script = "cat /proc/self/cgroup";
    lab.engine.create(ContainerSpec { limits, ..shell("cpu", "sleep 60") }).await.unwrap();
    lab.engine.start("cpu").await.unwrap();
    let quota = format!("/sys/fs/cgroup/cpu/{}/cpu/cpu.cfs_quota_us", lab.config.cgroup_prefix);
    if let Ok(quota) = std::fs::read_to_string(quota) {
        assert_eq!(quota.trim(), "25000", "{script}");
    }
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_of_all_kinds() {
    let Some(lab) = lab().await else { return };
    let host = lab.dir.path().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("f"), "from the host\n").unwrap();
    let host = host.to_str().unwrap();
    let missing =
        ContainerSpec { mounts: vec![mount(MountKind::Bind, Some("/x/y"), "/b")], ..shell("no", "") };
    assert_eq!(
        lab.engine.create(missing).await.unwrap_err().to_string(),
        "invalid mount config for type \"bind\": bind source path does not exist: /x/y"
    );
    let tmpfs =
        Mount { tmpfs_size: Some(1 << 20), tmpfs_mode: Some(0o711), ..mount(MountKind::Tmpfs, None, "/t") };
    let bind = Mount { read_only: true, ..mount(MountKind::Bind, Some(host), "/b") };
    let volume = mount(MountKind::Volume, Some("vol"), "/data");
    let anonymous = mount(MountKind::Volume, None, "/anon");
    let spec = ContainerSpec {
        mounts: vec![tmpfs, bind, volume.clone(), anonymous],
        read_only_root: true,
        ..shell(
            "m",
            "stat -c %a /t; dd if=/dev/zero of=/t/x bs=1M count=2 2>&1 | grep -c space; cat /b/f; touch /b/g; \
             cat /data/seed; stat -c %a /data; echo more > /data/more; touch /anon/x && echo anon; touch /root-ro",
        )
    };
    let (code, output) = lab.run(spec).await;
    let expected = "711\n1\nfrom the host\ntouch: /b/g: Read-only file system\nfrom the image\n750\nanon\n\
                    touch: /root-ro: Read-only file system\n";
    let sorted = |text: &str| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    // stdout and stderr are two pipes, whose order between them is not kept.
    assert_eq!(sorted(&output), sorted(expected));
    assert_eq!(code, 1);
    let spec = ContainerSpec { mounts: vec![volume], ..shell("n", "cat /data/more /data/seed; ls /anon") };
    let (_, output) = lab.run(spec).await;
    assert!(output.starts_with("more\nfrom the image\n"), "{output}");
    lab.engine.remove("m").await.unwrap();
    let volumes: Vec<_> = std::fs::read_dir(lab.config.state_dir.join("volumes")).unwrap().collect();
    assert_eq!(volumes.len(), 1, "the volume without a name goes, the named one stays");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_kernel_settings_and_links_are_as_asked() {
    let Some(lab) = lab().await else { return };
    let shared = lab.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let at = mount(MountKind::Bind, shared.to_str(), "/run/shared");
    let spec = ContainerSpec {
        ulimits: vec![
            Ulimit { name: "nofile".to_owned(), soft: 123, hard: 456 },
            Ulimit { name: "core".to_owned(), soft: 0, hard: u64::MAX },
        ],
        sysctls: [("kernel.shm_rmid_forced".to_owned(), "1".to_owned())].into(),
        links: [("/var/run/it.sock".to_owned(), "/run/shared/s".to_owned())].into(),
        mounts: vec![at],
        read_only_root: true,
        ..shell(
            "limits",
            "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc; cat /proc/sys/kernel/shm_rmid_forced; readlink /var/run/it.sock",
        )
    };
    let (code, output) = lab.run(spec).await;
    assert_eq!((code, output.as_str()), (0, "123\n456\n0\nunlimited\n1\n/run/shared/s\n"));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn named_volumes_are_listed_and_removed_when_nothing_mounts_them() {
    let Some(lab) = lab().await else { return };
    let labels: std::collections::BTreeMap<_, _> = [("a".to_owned(), "b".to_owned())].into();
    let vol =
        Mount { labels: labels.clone(), no_copy: true, ..mount(MountKind::Volume, Some("vol"), "/data") };
    let spec = ContainerSpec { mounts: vec![vol], ..shell("v", "ls /data") };
    assert_eq!(lab.run(spec).await, (0, String::new()), "nothing of the image is copied");
    lab.engine.create_volume("by.hand", &labels).unwrap();
    // What is there keeps its labels.
    lab.engine.create_volume("vol", &std::collections::BTreeMap::new()).unwrap();
    let volumes = lab.engine.volumes();
    assert_eq!(volumes.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["by.hand", "vol"]);
    assert!(volumes.iter().all(|v| v.labels == labels && v.created_at_unix_nanos > 0 && v.path.is_dir()));
    assert_eq!(lab.engine.users_of_volume("vol"), ["v"]);
    assert!(matches!(lab.engine.remove_volume("vol"), Err(VolumeError::InUse { .. })));
    lab.engine.remove("v").await.unwrap();
    lab.engine.remove_volume("vol").unwrap();
    assert!(matches!(lab.engine.remove_volume("vol"), Err(VolumeError::Missing(_))));
    assert!(matches!(lab.engine.remove_volume("../x"), Err(VolumeError::Missing(_))));
    assert!(matches!(lab.engine.create_volume("../x", &labels), Err(VolumeError::Name(_))));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_run_is_a_start_error() {
    let Some(lab) = lab().await else { return };
    for (id, command, code, words) in [
        ("a", "nosuch", 127, "exec: \"nosuch\": executable file not found in $PATH"),
        ("b", "/no/such", 127, "exec: \"/no/such\": stat /no/such: no such file or directory"),
        ("c", "/notexec", 126, "exec: \"/notexec\": permission denied"),
        ("d", "/data", 126, "exec: \"/data\": is a directory"),
    ] {
        let spec = ContainerSpec { args: Some(strings(&[command])), ..shell(id, "") };
        lab.engine.create(spec).await.unwrap();
        let error = lab.engine.start(id).await.unwrap_err();
        assert!(matches!(&error, ContainerError::Start { reason, .. } if reason == words), "{error}");
        assert_eq!(lab.engine.wait(id).await.unwrap().code, code, "{error}");
    }
    let unknown = ContainerSpec { image: "nosuch:1".to_owned(), ..shell("e", "") };
    assert_eq!(lab.engine.create(unknown).await.unwrap_err().to_string(), "No such image: nosuch:1");
    let nobody = ContainerSpec { user: Some("nobody".to_owned()), ..shell("f", "") };
    let error = lab.engine.create(nobody).await.unwrap_err().to_string();
    assert_eq!(error, "unable to find user nobody: no matching entries in passwd file");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_process() {
    let Some(lab) = lab().await else { return };
    let script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    lab.engine.create(shell("term", script)).await.unwrap();
    let pid = lab.engine.start("term").await.unwrap();
    assert_eq!(lab.engine.start("term").await.unwrap(), pid, "starting again changes nothing");
    lab.wait_for("term", "ready").await;
    lab.engine.kill("term", 15).await.unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, lab.engine.wait("term")).await.unwrap().unwrap().code, 3);
    assert_eq!(lab.output("term").await, "ready\nbye\n");

    lab.engine.create(shell("never", "true")).await.unwrap();
    let engine = lab.engine.clone();
    let waiting = tokio::spawn(async move { engine.wait("never").await.unwrap() });
    tokio::task::yield_now().await;
    lab.engine.remove("never").await.unwrap();
    // Either it waited already, or it finds none.
    if let Ok(exit) = tokio::time::timeout(LIMIT, waiting).await.unwrap() {
        assert_eq!(exit.error.as_deref(), Some("removed before it ran"));
    }

    // SIGRTMIN+3, by which images of systemd are stopped.
    lab.engine
        .create(shell("rt", "trap 'exit 4' 37; echo ready; while :; do sleep 0.05; done"))
        .await
        .unwrap();
    lab.engine.start("rt").await.unwrap();
    lab.wait_for("rt", "ready").await;
    lab.engine.kill("rt", 37).await.unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, lab.engine.wait("rt")).await.unwrap().unwrap().code, 4);
    assert!(matches!(lab.engine.kill("rt", 65).await, Err(ContainerError::Invalid(_))));

    lab.engine.create(shell("kill", "sleep 60")).await.unwrap();
    lab.engine.start("kill").await.unwrap();
    lab.engine.kill("kill", 9).await.unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, lab.engine.wait("kill")).await.unwrap().unwrap().code, 137);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_tail_follow_and_rotate() {
    let Some(lab) = lab().await else { return };
    let script =
        "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; echo ready; sleep 0.3; echo last";
    let log = LogConfig { max_size: 4096, max_file: 3 };
    lab.engine.create(ContainerSpec { log, ..shell("l", script) }).await.unwrap();
    lab.engine.start("l").await.unwrap();
    lab.wait_for("l", "ready").await;
    let follow = LogOptions { follow: true, tail: Some(2), ..LogOptions::default() };
    let text = |lines: Vec<skep_runtime::LogLine>| -> Vec<String> {
        lines.into_iter().map(|l| String::from_utf8(l.bytes).unwrap()).collect()
    };
    assert_eq!(text(lab.lines("l", follow).await), ["line 299\n", "ready\n", "last\n"]);
    lab.engine.wait("l").await.unwrap();

    let all = text(lab.lines("l", LogOptions::default()).await);
    assert!(all.len() > 60 && all.len() < 200, "{}", all.len());
    let tail = LogOptions { tail: Some(all.len() - 3), ..LogOptions::default() };
    assert_eq!(text(lab.lines("l", tail).await), all[3..], "across files");
    let none = LogOptions { tail: Some(0), ..LogOptions::default() };
    assert!(lab.lines("l", none).await.is_empty());
    let files = std::fs::read_dir(lab.config.state_dir.join("containers/l")).unwrap();
    let files: Vec<_> = files.map(|f| f.unwrap()).filter(|f| f.file_name() != "json.log").collect();
    let rotated: Vec<_> =
        files.iter().filter(|f| f.file_name().to_string_lossy().starts_with("json.log.")).collect();
    assert_eq!(rotated.len(), 2);
    assert!(rotated.iter().all(|f| f.metadata().unwrap().len() < 4096 + 200));

    let last = lab.lines("l", LogOptions { tail: Some(1), ..LogOptions::default() }).await;
    let time = last[0].time_unix_nanos;
    let since = LogOptions { since_unix_nanos: Some(time), ..LogOptions::default() };
    assert_eq!(text(lab.lines("l", since).await), ["last\n"]);
    let until = LogOptions { until_unix_nanos: Some(time - 1), ..LogOptions::default() };
    assert_eq!(lab.lines("l", until).await.len(), all.len() - 1);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_namespace_is_joined_by_its_path() {
    let Some(lab) = lab().await else { return };
    let name = format!("skeprt{}", std::process::id());
    let ip = |args: &[&str]| Command::new("ip").args(args).status().is_ok_and(|s| s.success());
    if !ip(&["netns", "add", &name]) {
        lab::say("ip netns add failed (package iproute2)");
        return;
    }
    let path = format!("/run/netns/{name}");
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
    let spec = ContainerSpec {
        netns: Some(path.clone().into()),
        ..shell("net", "readlink /proc/self/ns/net; cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
    };
    let (_, output) = lab.run(spec).await;
    let recorded = lab.engine.list()[0].netns.clone();
    assert!(ip(&["netns", "del", &name]));
    assert_eq!(output, format!("net:[{inode}]\n0\n"));
    assert_eq!(recorded, Some(path.into()));
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_start_at_once() {
    let Some(lab) = lab().await else { return };
    let mut starts = tokio::task::JoinSet::new();
    for n in 0..50 {
        let engine = lab.engine.clone();
        starts.spawn(async move {
            let id = format!("c{n}");
            engine.create(shell(&id, &format!("echo {n}; exec sleep 60"))).await.unwrap();
            engine.start(&id).await.unwrap();
        });
    }
    while let Some(started) = starts.join_next().await {
        started.unwrap();
    }
    let running = |c: &skep_runtime::ContainerInfo| matches!(c.state, ContainerState::Running { .. });
    assert_eq!(lab.engine.list().iter().filter(|c| running(c)).count(), 50);
    lab.wait_for("c49", "49").await;
    lab.finish().await;
}
