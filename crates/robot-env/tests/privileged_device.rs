//! GPUs, devices, display and identity by the command line. Drivers are synthetic: nodes of the
//! null device, and libraries that a C compiler makes, found by a real loader inside the container.
//! Needs root, busybox-static and `cc`; a test that cannot run says so.

mod place;

use std::fs;
use std::path::Path;
use std::process::Command;

use place::Place;
use robot_env_testkit::image::{Compression, Entry, ImageBuilder};
use robot_env_testkit::registry::TestRegistry;
use rustix::fs::{CWD, FileType, Mode, makedev};

macro_rules! place {
    ($name:literal) => {
        match Place::new($name) {
            Some(place) => place,
            None => return,
        }
    };
}

const VERSION: &str = "550.54.15";

/// The loader, the C library, and the directory of libraries on this machine.
fn loader() -> Option<(&'static str, String, &'static str)> {
    [
        ("/lib64/ld-linux-x86-64.so.2", "/usr/lib/x86_64-linux-gnu"),
        ("/lib/ld-linux-aarch64.so.1", "/usr/lib/aarch64-linux-gnu"),
    ]
    .into_iter()
    .map(|(loader, directory)| (loader, format!("{directory}/libc.so.6"), directory))
    .find(|(loader, library, _)| Path::new(loader).exists() && Path::new(library).exists())
}

fn node(path: &Path, minor: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, minor))
        .unwrap();
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Compiles a library that answers `value` when it is asked `which`.
fn compile(path: &Path, value: u32) -> bool {
    let source = path.with_extension("c");
    write(&source, format!("int which(void) {{ return {value}; }}\n"));
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libcuda.so.1", "-o"])
        .arg(path)
        .arg(&source)
        .status();
    fs::remove_file(source).unwrap();
    done.is_ok_and(|status| status.success())
}

/// A driver below `machine`, with so many GPUs.
fn driver(machine: &Path, library: &str, gpus: u32) {
    node(&machine.join("dev/nvidiactl"), 3);
    node(&machine.join("dev/nvidia-uvm"), 3);
    for gpu in 0..gpus {
        node(&machine.join(format!("dev/nvidia{gpu}")), 3);
        write(
            &machine.join(format!("proc/driver/nvidia/gpus/0000:0{gpu}:00.0/information")),
            format!("Model: NVIDIA Test\nGPU UUID: GPU-test-{gpu}\nDevice Minor: {gpu}\n"),
        );
    }
    write(&machine.join("sys/module/nvidia/version"), format!("{VERSION}\n"));
    write(&machine.join("usr/bin/nvidia-smi"), "#!/bin/sh\necho smi of the host\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(machine.join("usr/bin/nvidia-smi"), mode).unwrap();
    let path = machine.join(format!("{}/libcuda.so.{VERSION}", &library[1..]));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    assert!(compile(&path, 550), "cc makes a library");
}

/// An image with glibc, a program that asks libcuda which it is, and a libcuda of its own.
fn cuda_image(place: &Place, env: &[&str]) -> Option<()> {
    let (loader, libc, directory) = loader()?;
    let work = place.directory.join("cuda-image");
    let own = work.join("libcuda.so.1");
    fs::create_dir_all(&work).unwrap();
    if !compile(&own, 1) {
        return None;
    }
    write(
        &work.join("ask.c"),
        "#include <stdio.h>\nint which(void);\nint main(void) { printf(\"%d\\n\", which()); return 0; }\n",
    );
    let done = Command::new("cc").arg("-o").arg(work.join("ask")).arg(work.join("ask.c")).arg(&own).status();
    if !done.is_ok_and(|status| status.success()) {
        return None;
    }
    let read = |path: &Path| fs::read(path).unwrap();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find_map(|path| fs::read(path).ok())?;
    let mut entries = vec![
        Entry::file("bin/busybox", busybox).mode(0o755),
        Entry::file("bin/ask", read(&work.join("ask"))).mode(0o755),
        Entry::file(&loader[1..], read(Path::new(loader))).mode(0o755),
        Entry::file(&libc[1..], read(Path::new(&libc))).mode(0o755),
        Entry::file(&format!("{}/libcuda.so.1", &directory[1..]), read(&own)).mode(0o755),
        Entry::file("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
    ];
    entries.extend(
        ["sh", "ls", "cat", "readlink", "env", "sleep", "id"]
            .map(|name| Entry::symlink(&format!("bin/{name}"), "busybox")),
    );
    let env: Vec<&str> = ["PATH=/bin:/usr/bin"].iter().chain(env).copied().collect();
    let config = serde_json::json!({ "Cmd": ["sh"], "Env": env });
    let image = ImageBuilder::new().layer_with(&entries, Compression::Gzip).config(config).build();
    let registry = TestRegistry::start();
    registry.put_image("cuda", "latest", &image);
    let from = registry.name("cuda:latest");
    place.command(&["pull", "-q", &from]).run().ok();
    place.command(&["tag", &from, "cuda"]).run().ok();
    Some(())
}

macro_rules! gpu_place {
    ($name:literal, $env:expr, $gpus:expr) => {{
        let place = place!($name);
        let Some((_, _, library)) = loader() else {
            println!("skipped: no glibc of x86_64 or aarch64");
            return;
        };
        if cuda_image(&place, $env).is_none() {
            println!("skipped: no C compiler");
            return;
        }
        let machine = place.directory.join("machine");
        driver(&machine, library, $gpus);
        (place, machine, library)
    }};
}

#[test]
#[allow(clippy::print_stdout)] // why a test is skipped
fn privileged_a_container_uses_the_driver_of_its_host() {
    let (place, machine, library) = gpu_place!("gpu", &[], 2);
    let root = machine.to_str().unwrap();
    let run = |args: &[&str]| {
        let args: Vec<&str> = ["run", "--rm", "--network", "none"].iter().chain(args).copied().collect();
        place.command(&args).env("ROBOT_ENV_DRIVER_ROOT", root).run()
    };
    assert_eq!(run(&["cuda", "ask"]).ok(), "1", "without a GPU the image's own library is used");
    assert_eq!(run(&["--gpus", "all", "cuda", "ask"]).ok(), "550", "the host's library wins");
    assert_eq!(run(&["--gpus", "all", "cuda", "nvidia-smi"]).ok(), "smi of the host");
    assert_eq!(
        run(&["--gpus", "device=1", "cuda", "sh", "-c", "ls /dev/nvidia?; cat /dev/nvidia1"]).ok(),
        "/dev/nvidia1",
        "one GPU, and its node opens"
    );
    assert_eq!(
        run(&["--gpus", "all", "cuda", "readlink", &format!("{library}/libcuda.so.1")]).ok(),
        format!("libcuda.so.{VERSION}")
    );
    assert_eq!(run(&["--device", "nvidia.com/gpu=0", "cuda", "ask"]).ok(), "550");
    assert_eq!(run(&["--runtime=nvidia", "cuda", "ask"]).ok(), "1", "the variables ask for nothing");
    assert_eq!(run(&["--runtime=nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all", "cuda", "ask"]).ok(), "550");
    assert_eq!(run(&["--gpus", "all", "--read-only", "cuda", "ask"]).ok(), "550");
    let done = run(&["--gpus", "3", "cuda", "ask"]);
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.err.contains("this host has 2 GPUs"), "{done:?}");
    let done = run(&["--gpus", "all", "-e", "CUDA_VERSION=13.0", "cuda", "ask"]);
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.err.contains("550.54.15") && done.err.contains("driver 580.65.06 or"), "{done:?}");
    let listed = place
        .command(&["gpu", "ls", "--format", "{{.Name}} {{.Names}} {{.Driver}}"])
        .env("ROBOT_ENV_DRIVER_ROOT", root)
        .run()
        .ok();
    assert_eq!(listed, "0 GPU-test-0 nvidia 550.54.15\n1 GPU-test-1 nvidia 550.54.15");
    place.assert_empty();
}

#[test]
#[allow(clippy::print_stdout)] // why a test is skipped
fn privileged_a_driver_upgrade_reaches_a_container_at_its_next_start() {
    let (place, machine, library) = gpu_place!("upgrade", &[], 1);
    let root = machine.to_str().unwrap();
    let call = |line: &str| {
        place.command(&line.split_whitespace().collect::<Vec<_>>()).env("ROBOT_ENV_DRIVER_ROOT", root).run()
    };
    call("create --name asker --network none --gpus all cuda ask").ok();
    assert_eq!(call("start -a asker").ok(), "550");
    fs::remove_file(machine.join(format!("{}/libcuda.so.{VERSION}", &library[1..]))).unwrap();
    let done = call("start -a asker");
    assert_ne!(done.code, 0);
    assert!(done.err.contains("libraries are not installed"), "{done:?}");
    assert!(compile(&machine.join(format!("{}/libcuda.so.560.28.03", &library[1..])), 560));
    let done = call("start -a asker");
    assert!(
        done.err.contains("the NVIDIA kernel module has version 550.54.15, the libraries have 560.28.03"),
        "{done:?}"
    );
    write(&machine.join("sys/module/nvidia/version"), "560.28.03\n");
    assert_eq!(call("start -a asker").ok(), "560");
}

#[test]
fn privileged_without_a_gpu_docker_s_error() {
    let place = place!("no-gpu");
    let machine = place.directory.join("machine");
    fs::create_dir_all(machine.join("dev")).unwrap();
    let root = machine.to_str().unwrap();
    for (flags, says) in [
        (&["--gpus", "all"][..], "could not select device driver \"\" with capabilities: [[gpu]]"),
        (&["--runtime=nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all"], "no NVIDIA driver found on this host"),
        (&["--runtime=nowhere"], "unknown or invalid runtime name: nowhere"),
        (&["--gpus="], "it is empty"),
        (&["--device", "/dev/absent0"], "`--device path:/dev/absent0` waits"),
        (&["--device", "nvidia.com/gpu=all"], "unresolvable CDI devices nvidia.com/gpu=all"),
    ] {
        let args: Vec<&str> = ["run", "--rm", "--network", "none"]
            .iter()
            .chain(flags)
            .chain(&["busybox", "true"])
            .copied()
            .collect();
        let done = place.command(&args).env("ROBOT_ENV_DRIVER_ROOT", root).run();
        assert_eq!(done.code, 125, "{flags:?}: {done:?}");
        assert!(done.err.contains(says), "{flags:?}: {done:?}");
    }
    place.assert_empty();
    assert_eq!(place.script("--runtime=nvidia", "echo fine").ok(), "fine");
}

#[test]
fn privileged_cdi_files_with_their_hooks() {
    let place = place!("cdi");
    let machine = place.directory.join("machine");
    node(&machine.join("dev/arm0"), 5);
    write(&machine.join("opt/acme/calibration"), "42\n");
    let hook = machine.join("hook");
    write(&hook, "#!/bin/sh\ncat > \"$OUT\"\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&hook, mode).unwrap();
    let out = place.directory.join("hook-was-told");
    write(
        &machine.join("etc/cdi/acme.yaml"),
        format!(
            "cdiVersion: 0.6.0\nkind: acme.com/arm\ndevices:\n- name: 0\n  containerEdits:\n    deviceNodes:\n    - path: /dev/arm\n      hostPath: /dev/arm0\n\
             containerEdits:\n  env: [ACME=yes]\n  mounts:\n  - hostPath: /opt/acme\n    containerPath: /opt/acme\n    options: [ro, rbind]\n\
             \x20 hooks:\n  - hookName: createRuntime\n    path: {}\n    env: [\"OUT={}\", PATH=/bin:/usr/bin]\n",
            hook.display(),
            out.display()
        ),
    );
    let root = machine.to_str().unwrap();
    let script = "echo $ACME; cat /opt/acme/calibration; head -c 3 /dev/arm | wc -c";
    let args =
        ["run", "--rm", "--network", "none", "--device", "acme.com/arm=0", "busybox", "sh", "-c", script];
    assert_eq!(place.command(&args).env("ROBOT_ENV_DRIVER_ROOT", root).run().ok(), "yes\n42\n3");
    let told: serde_json::Value = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
    assert_eq!(told["status"], "creating");
    let listed = place.command(&["cdi", "ls"]).env("ROBOT_ENV_DRIVER_ROOT", root).run().ok();
    assert_eq!(listed, "acme.com/arm=0");
}

#[test]
#[allow(clippy::print_stdout)] // why a test is skipped
fn privileged_what_is_generated_is_a_cdi_file_that_works() {
    let (place, machine, _) = gpu_place!("generate", &[], 1);
    let root = machine.to_str().unwrap();
    for format in ["yaml", "json"] {
        let text = place
            .command(&["cdi", "generate", "--format", format])
            .env("ROBOT_ENV_DRIVER_ROOT", root)
            .run()
            .ok();
        // The GPUs come from the file alone: another kind than the one that is looked for natively.
        let other = place.directory.join(format!("other-{format}"));
        write(
            &other.join(format!("etc/cdi/x.{format}")),
            text.replace("nvidia.com/gpu", "elsewhere.com/gpu").replace(root, ""),
        );
        // Paths of the file are those of its machine.
        for part in ["dev", "usr"] {
            std::os::unix::fs::symlink(machine.join(part), other.join(part)).unwrap();
        }
        let args = ["run", "--rm", "--network", "none", "--device", "elsewhere.com/gpu=all", "cuda", "ask"];
        let done = place.command(&args).env("ROBOT_ENV_DRIVER_ROOT", other.to_str().unwrap()).run();
        assert_eq!(done.code, 125, "a link that leads out of the root is not followed: {done:?}");
        fs::remove_file(other.join("dev")).unwrap();
        fs::remove_file(other.join("usr")).unwrap();
        assert!(
            Command::new("cp")
                .arg("-a")
                .arg(machine.join("usr"))
                .arg(machine.join("dev"))
                .arg(&other)
                .status()
                .unwrap()
                .success()
        );
        let done = place.command(&args).env("ROBOT_ENV_DRIVER_ROOT", other.to_str().unwrap()).run();
        assert_eq!(done.ok(), "550", "{format}");
    }
}
