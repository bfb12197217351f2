//! Drivers that are nothing but files of the right names.

use super::*;

#[test]
fn the_driver_is_told_to_make_no_nodes() {
    let before = "ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 1\nDeviceFileUID: 0\n";
    let after = "ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 0\nDeviceFileUID: 0\n";
    assert_eq!(nvidia::without_nodes(before).as_deref(), Some(after));
    assert_eq!(nvidia::without_nodes(after), None);
    assert_eq!(nvidia::without_nodes("Mobile: 4294967295\n"), None);
}

use crate::elf::tests::{library, library_of};
use robot_env_testkit::temporary::TemporaryDirectory;
use std::fs;
use std::os::unix::fs::symlink;

const LIB: &str = "usr/lib/x86_64-linux-gnu";

struct Machine(TemporaryDirectory);

impl Machine {
    fn new(name: &str) -> Machine {
        Machine(TemporaryDirectory::new(name))
    }

    fn file(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }

    fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    fn root(&self) -> HostRoot {
        HostRoot::fixture(self.0.path())
    }

    /// A desktop with so many GPUs.
    fn desktop(name: &str, version: &str, gpus: usize) -> Machine {
        let machine = Machine::new(name);
        machine.file("dev/nvidiactl", "c 195:255").file("dev/nvidia-uvm", "c 510:0");
        machine.file("dev/nvidia-uvm-tools", "c 510:1").file("dev/nvidia-modeset", "c 195:254");
        machine.file(
            "proc/driver/nvidia/version",
            format!("NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Tue\n"),
        );
        for gpu in 0..gpus {
            let bus = format!("0000:0{}:00.0", gpu + 1);
            machine.file(&format!("dev/nvidia{gpu}"), format!("c 195:{gpu}"));
            machine.file(&format!("dev/dri/card{gpu}"), format!("c 226:{gpu}"));
            machine.file(&format!("dev/dri/renderD{}", 128 + gpu), format!("c 226:{}", 128 + gpu));
            machine.file(&format!("sys/bus/pci/devices/{bus}/drm/card{gpu}/dev"), "");
            machine.file(&format!("sys/bus/pci/devices/{bus}/drm/renderD{}/dev", 128 + gpu), "");
            machine.file(&format!("sys/bus/pci/devices/{bus}/vendor"), "0x10de\n");
            machine.file(
                &format!("proc/driver/nvidia/gpus/{bus}/information"),
                format!("Model: \t\t NVIDIA GeForce RTX 3090\nIRQ:   \t\t 1\nGPU UUID: \t GPU-aaaa-{gpu}\nBus Location: \t {bus}\nDevice Minor: \t {gpu}\n"),
            );
        }
        machine.driver(version);
        machine
    }

    fn driver(&self, version: &str) -> &Self {
        for (file, soname) in [
            ("libcuda", "libcuda.so.1"),
            ("libnvidia-ml", "libnvidia-ml.so.1"),
            ("libnvidia-ptxjitcompiler", "libnvidia-ptxjitcompiler.so.1"),
            ("libGLX_nvidia", "libGLX_nvidia.so.0"),
            ("libnvidia-glcore", ""),
            ("libnvcuvid", "libnvcuvid.so.1"),
        ] {
            let own = format!("{file}.so.{version}");
            let soname = if soname.is_empty() { &own } else { soname };
            self.file(&format!("{LIB}/{own}"), library(soname));
        }
        self.file(
            &format!("usr/lib/i386-linux-gnu/libcuda.so.{version}"),
            library_of("libcuda.so.1", 3, false),
        );
        self.file(&format!("{LIB}/vdpau/libvdpau_nvidia.so.{version}"), library("libvdpau_nvidia.so.1"));
        self.file(&format!("{LIB}/libnvidia-egl-gbm.so.1.1.0"), library("libnvidia-egl-gbm.so.1"));
        self.file(&format!("{LIB}/libz.so.1.2.13"), library("libz.so.1"));
        self.file("usr/bin/nvidia-smi", "#!/bin/sh\n").file("usr/share/nvidia/nvoptix.bin", "");
        self.file("etc/OpenCL/vendors/nvidia.icd", "libnvidia-opencl.so.1\n");
        self.file("usr/share/glvnd/egl_vendor.d/10_nvidia.json", "{}");
        self.file(&format!("lib/firmware/nvidia/{version}/gsp_ga10x.bin"), "")
    }
}

fn all() -> GpuRequest {
    GpuRequest { count: Some(-1), ..GpuRequest::default() }
}

fn by_ids(ids: &[&str]) -> GpuRequest {
    GpuRequest { ids: ids.iter().map(|&id| id.to_owned()).collect(), ..GpuRequest::default() }
}

fn image(env: &[&str]) -> ImageFacts {
    ImageFacts { env: env.iter().map(|&e| e.to_owned()).collect(), ..ImageFacts::default() }
}

fn paths(edits: &SpecEdits) -> Vec<&str> {
    edits.devices.iter().map(|device| device.path.as_str()).collect()
}

fn mounted(edits: &SpecEdits, path: &str) -> bool {
    edits.mounts.iter().any(|mount| mount.target == path)
}

#[test]
fn a_desktop() {
    let machine = Machine::desktop("desktop", "550.54.15", 1);
    let edits = request(&machine.root(), &all(), &image(&[]), false).unwrap();
    assert_eq!(
        paths(&edits),
        [
            "/dev/nvidiactl",
            "/dev/nvidia-uvm",
            "/dev/nvidia-uvm-tools",
            "/dev/nvidia0",
            "/dev/dri/card0",
            "/dev/dri/renderD128"
        ]
    );
    for path in ["libcuda.so.550.54.15", "libnvidia-ml.so.550.54.15"] {
        assert!(mounted(&edits, &format!("/{LIB}/{path}")), "{path}");
    }
    assert!(mounted(&edits, "/usr/bin/nvidia-smi"));
    assert!(mounted(&edits, "/lib/firmware/nvidia/550.54.15/gsp_ga10x.bin"));
    for path in [
        format!("/{LIB}/libGLX_nvidia.so.550.54.15"),
        format!("/{LIB}/libnvcuvid.so.550.54.15"),
        format!("/{LIB}/libz.so.1.2.13"),
        "/usr/lib/i386-linux-gnu/libcuda.so.550.54.15".into(),
        "/usr/share/nvidia/nvoptix.bin".into(),
    ] {
        assert!(!mounted(&edits, &path), "{path} is not asked for");
    }
    let link = |path: &str| {
        edits.links.iter().find(|l| l.path == format!("/{LIB}/{path}")).map(|l| l.target.as_str())
    };
    assert_eq!(link("libcuda.so.1"), Some("libcuda.so.550.54.15"));
    assert_eq!(link("libcuda.so"), Some("libcuda.so.1"));
    assert!(
        edits
            .libraries
            .iter()
            .any(|l| l.soname == "libcuda.so.1" && l.path == format!("/{LIB}/libcuda.so.1"))
    );
    assert_eq!(edits.env, ["NVIDIA_VISIBLE_DEVICES=void"]);
    assert!(edits.mounts.iter().all(|mount| mount.read_only));
    assert!(edits.warnings.is_empty(), "{:?}", edits.warnings);
}

#[test]
fn graphics_and_32_bits_when_asked_for() {
    let machine = Machine::desktop("graphics", "550.54.15", 1);
    let env = image(&["NVIDIA_DRIVER_CAPABILITIES=all"]);
    let edits = request(&machine.root(), &all(), &env, false).unwrap();
    for path in [
        format!("/{LIB}/libGLX_nvidia.so.550.54.15"),
        format!("/{LIB}/vdpau/libvdpau_nvidia.so.550.54.15"),
        format!("/{LIB}/libnvidia-egl-gbm.so.1.1.0"),
        "/usr/lib/i386-linux-gnu/libcuda.so.550.54.15".into(),
        "/usr/share/glvnd/egl_vendor.d/10_nvidia.json".into(),
    ] {
        assert!(mounted(&edits, &path), "{path}");
    }
    assert!(paths(&edits).contains(&"/dev/nvidia-modeset"));
    assert!(edits.libraries.iter().any(|l| l.flags == 3), "the 32-bit library is in the cache");
    // A display brings graphics along.
    let edits = request(&machine.root(), &all(), &image(&[]), true).unwrap();
    assert!(mounted(&edits, &format!("/{LIB}/libGLX_nvidia.so.550.54.15")));
    let only = GpuRequest { capabilities: vec!["video".into()], ..all() };
    let edits = request(&machine.root(), &only, &image(&[]), false).unwrap();
    assert!(mounted(&edits, &format!("/{LIB}/libnvcuvid.so.550.54.15")));
    assert!(!mounted(&edits, &format!("/{LIB}/libcuda.so.550.54.15")));
}

#[test]
fn several_gpus() {
    let machine = Machine::desktop("several", "550.54.15", 3);
    let root = machine.root();
    let nodes = |request: &GpuRequest| {
        super::request(&root, request, &image(&[]), false).map(|edits| {
            let nodes = edits.devices.iter().filter(|d| d.major == 195 && d.minor < 200);
            nodes.map(|d| d.minor).collect::<Vec<_>>()
        })
    };
    assert_eq!(nodes(&all()).unwrap(), [0, 1, 2]);
    assert_eq!(nodes(&GpuRequest { count: Some(2), ..GpuRequest::default() }).unwrap(), [0, 1]);
    assert_eq!(nodes(&GpuRequest::default()).unwrap(), [0]);
    assert_eq!(nodes(&by_ids(&["2", "GPU-aaaa-0"])).unwrap(), [2, 0]);
    assert_eq!(nodes(&by_ids(&["all"])).unwrap(), [0, 1, 2]);
    for (request, says) in [
        (GpuRequest { count: Some(4), ..GpuRequest::default() }, "this host has 3 GPUs"),
        (by_ids(&["7"]), "this host has 3 GPUs"),
        (by_ids(&["GPU-b"]), "unknown GPU `GPU-b`"),
        (by_ids(&["MIG-b"]), "unknown MIG device `MIG-b`"),
    ] {
        let error = nodes(&request).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    let names: Vec<_> = list(&root).0.into_iter().map(|gpu| gpu.names).collect();
    assert_eq!(names[1], ["1", "GPU-aaaa-1"]);
}

#[test]
fn parts_of_a_gpu() {
    let machine = Machine::desktop("mig", "550.54.15", 1);
    for (path, minor) in [("gi1", 12), ("gi1/ci0", 13), ("gi2", 21), ("gi2/ci0", 22)] {
        machine.file(
            &format!("proc/driver/nvidia/capabilities/gpu0/mig/{path}/access"),
            format!("DeviceFileMinor: {minor}\nDeviceFileMode: 444\n"),
        );
        machine.file(&format!("dev/nvidia-caps/nvidia-cap{minor}"), format!("c 511:{minor}"));
    }
    let root = machine.root();
    for id in ["0:1", "MIG-GPU-aaaa-0/2/0"] {
        let edits = request(&root, &by_ids(&[id]), &image(&[]), false).unwrap();
        let caps: Vec<i64> = edits.devices.iter().filter(|d| d.major == 511).map(|d| d.minor).collect();
        assert_eq!(caps, [21, 22], "{id}");
        assert!(paths(&edits).contains(&"/dev/nvidia0"));
    }
    assert!(request(&root, &by_ids(&["0:2"]), &image(&[]), false).is_err());
    assert_eq!(list(&root).0[0].names, ["0", "GPU-aaaa-0", "0:0", "0:1"]);
}

#[test]
fn an_upgrade_without_a_reboot_is_named() {
    let machine = Machine::desktop("upgrade", "535.54.03", 1);
    for name in fs::read_dir(machine.0.join(LIB)).unwrap().flatten() {
        if name.file_name().to_string_lossy().ends_with(".535.54.03") {
            fs::remove_file(name.path()).unwrap();
        }
    }
    fs::remove_file(machine.0.join("usr/lib/i386-linux-gnu/libcuda.so.535.54.03")).unwrap();
    machine.driver("550.54.15");
    let error = request(&machine.root(), &all(), &image(&[]), false).unwrap_err();
    assert!(
        error.to_string().contains("could not select device driver \"\" with capabilities: [[gpu]]"),
        "{error}"
    );
    let causes = error.causes().join(" ");
    assert!(causes.contains("kernel module has version 535.54.03, the libraries have 550.54.15"), "{causes}");
    // Both are installed: the one that the kernel has is used.
    machine.driver("535.54.03");
    let edits = request(&machine.root(), &all(), &image(&[]), false).unwrap();
    assert!(mounted(&edits, &format!("/{LIB}/libcuda.so.535.54.03")));
    assert!(!mounted(&edits, &format!("/{LIB}/libcuda.so.550.54.15")));
}

#[test]
fn without_a_gpu_docker_s_words() {
    let machine = Machine::new("none");
    let error = request(&machine.root(), &all(), &image(&[]), false).unwrap_err();
    assert_eq!(error.to_string(), "could not select device driver \"\" with capabilities: [[gpu]]");
    let causes = error.causes().join("; ");
    assert!(
        causes.contains("no GPU driver found") && causes.contains("/dev/nvidiactl` does not exist"),
        "{causes}"
    );
    let other = GpuRequest { driver: "riva".into(), capabilities: vec!["compute".into()], ..all() };
    let error = request(&machine.root(), &other, &image(&[]), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not select device driver \"riva\" with capabilities: [[gpu compute]]"
    );
    for (driver, says) in [("amd", "no AMD GPU found"), ("intel", "no Intel GPU found")] {
        let wanted = GpuRequest { driver: driver.into(), ..all() };
        let causes = request(&machine.root(), &wanted, &image(&[]), false).unwrap_err().causes().join("; ");
        assert!(causes.contains(says) && !causes.contains("nvidiactl"), "{causes}");
    }
    assert!(by_variables(&machine.root(), &image(&["NVIDIA_VISIBLE_DEVICES=all"]), false).is_err());
    assert_eq!(by_variables(&machine.root(), &image(&[]), false).unwrap(), SpecEdits::default());
}

#[test]
fn images_that_the_driver_does_not_run() {
    let machine = Machine::desktop("cuda", "470.42.01", 1);
    let root = machine.root();
    let error = request(&root, &all(), &image(&["CUDA_VERSION=12.2.0"]), false).unwrap_err();
    assert!(error.to_string().contains("CUDA 12.2.0") && error.to_string().contains("470.42.01"), "{error}");
    assert!(error.hint().unwrap().contains("535.54.03"), "{error:?}");
    let edits = request(&root, &all(), &image(&["CUDA_VERSION=11.8.0"]), false).unwrap();
    assert!(edits.warnings[0].contains("520.61.05"), "{:?}", edits.warnings);
    // The compatibility package of a newer driver makes it run, and comes first.
    let mut with = image(&["CUDA_VERSION=12.2.0", "NVIDIA_REQUIRE_CUDA=cuda>=12.2"]);
    with.compat = vec![
        "/usr/local/cuda/compat/libcuda.so.535.54.03".into(),
        "/usr/local/cuda/compat/libcuda.so.1".into(),
    ];
    let edits = request(&root, &all(), &with, false).unwrap();
    assert_eq!(edits.libraries[0].path, "/usr/local/cuda/compat/libcuda.so.1");
    // An older one does not.
    with.compat = vec!["/usr/local/cuda/compat/libcuda.so.450.1".into()];
    with.env = vec!["CUDA_VERSION=11.0".into()];
    let edits = request(&root, &all(), &with, false).unwrap();
    assert!(edits.libraries[0].path.starts_with(&format!("/{LIB}")));
}

#[test]
fn old_images_get_libglvnd() {
    let machine = Machine::desktop("glvnd", "550.54.15", 1);
    let flags = Elf { machine: native_machine(), is_64: true, soname: None }.cache_flags().unwrap();
    let entry = |name: &str| crate::ldcache::Entry {
        name: name.into(),
        path: format!("/{LIB}/{name}"),
        flags,
        hardware: 0,
        level: None,
    };
    let host = Cache { entries: ["libGLdispatch.so.0", "libGL.so.1", "libGLX.so.0"].map(entry).into() };
    for entry in &host.entries {
        machine.file(&entry.path[1..], "");
    }
    machine.file("etc/ld.so.cache", host.to_bytes());
    let mut old = image(&[]);
    old.cache = Some(Cache { entries: vec![entry("libGL.so.1")] }.to_bytes());
    let edits = request(&machine.root(), &all(), &old, true).unwrap();
    assert!(mounted(&edits, &format!("/{LIB}/libGLdispatch.so.0")));
    old.cache = Some(Cache { entries: vec![entry("libGLdispatch.so.0")] }.to_bytes());
    let edits = request(&machine.root(), &all(), &old, true).unwrap();
    assert!(!mounted(&edits, &format!("/{LIB}/libGLdispatch.so.0")), "the image has its own");
}

#[test]
fn a_jetson() {
    let machine = Machine::new("jetson");
    machine.file("etc/nv_tegra_release", "# R36\n");
    machine.file(
        "etc/nvidia-container-runtime/host-files-for-container.d/drivers.csv",
        "dev, /dev/nvhost-*\ndev, /dev/missing\nlib, /usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1\n\
         sym, /usr/lib/aarch64-linux-gnu/libcuda.so\ndir, /opt/nvidia/firmware\nlib, /no/such\n\n# a comment\n",
    );
    machine.file("dev/nvhost-ctrl", "c 240:0").file("dev/nvhost-gpu", "c 240:1").file("dev/other", "c 240:2");
    machine.file("usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1", library_of("libcuda.so.1", 183, true));
    machine.link("usr/lib/aarch64-linux-gnu/libcuda.so", "nvidia/libcuda.so.1.1");
    machine.file("opt/nvidia/firmware/x", "");
    let edits = request(&machine.root(), &all(), &image(&[]), false).unwrap();
    assert_eq!(paths(&edits), ["/dev/nvhost-ctrl", "/dev/nvhost-gpu"]);
    assert!(mounted(&edits, "/opt/nvidia/firmware"));
    assert_eq!(edits.libraries[0].path, "/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1");
    assert!(edits.links.iter().any(|l| l.path == "/usr/lib/aarch64-linux-gnu/libcuda.so" && l.target == "nvidia/libcuda.so.1.1"));
    let by_env = by_variables(&machine.root(), &image(&["NVIDIA_VISIBLE_DEVICES=all"]), false).unwrap();
    assert_eq!(paths(&by_env), paths(&edits));
    let mut orin = image(&[]);
    orin.compat = vec!["/usr/local/cuda/compat_orin/libcuda.so.1".into()];
    let edits = request(&machine.root(), &all(), &orin, false).unwrap();
    if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        assert_eq!(edits.libraries[0].path, "/usr/local/cuda/compat_orin/libcuda.so.1");
    }
}

#[test]
fn windows() {
    let machine = Machine::new("wsl");
    machine.file("dev/dxg", "c 10:63").file("usr/lib/wsl/lib/libcuda.so.1.1", library("libcuda.so.1"));
    machine
        .file("usr/lib/wsl/lib/libdxcore.so", library("libdxcore.so"))
        .file("usr/lib/wsl/lib/nvidia-smi", "");
    let edits = request(&machine.root(), &all(), &image(&[]), false).unwrap();
    assert_eq!(paths(&edits), ["/dev/dxg"]);
    assert!(mounted(&edits, "/usr/lib/wsl"));
    let names: Vec<&str> = edits.libraries.iter().map(|l| l.soname.as_str()).collect();
    assert_eq!(names, ["libcuda.so.1", "libdxcore.so"]);
    assert!(edits.links.iter().any(|l| l.path == "/usr/bin/nvidia-smi"));
    fs::remove_dir_all(machine.0.join("usr/lib/wsl")).unwrap();
    let error = request(&machine.root(), &all(), &image(&[]), false).unwrap_err();
    assert!(error.hint().unwrap().contains("wsl --update"), "{error:?}");
}

#[test]
fn amd_and_intel() {
    let machine = Machine::new("drm");
    for (bus, vendor, card) in [("0000:00:02.0", "0x8086", 0), ("0000:03:00.0", "0x1002", 1)] {
        machine.file(&format!("sys/bus/pci/devices/{bus}/vendor"), format!("{vendor}\n"));
        machine.file(&format!("sys/bus/pci/devices/{bus}/device"), "0x73bf\n");
        machine.file(&format!("sys/bus/pci/devices/{bus}/drm/card{card}/dev"), "");
        machine.file(&format!("sys/bus/pci/devices/{bus}/drm/renderD{}/dev", 128 + card), "");
        machine.file(&format!("dev/dri/card{card}"), format!("c 226:{card}"));
        machine.file(&format!("dev/dri/renderD{}", 128 + card), format!("c 226:{}", 128 + card));
    }
    machine.file("dev/kfd", "c 511:0");
    let root = machine.root();
    for (driver, want) in [
        ("amd", &["/dev/kfd", "/dev/dri/card1", "/dev/dri/renderD129"][..]),
        ("intel", &["/dev/dri/card0", "/dev/dri/renderD128"]),
        ("", &["/dev/kfd", "/dev/dri/card0", "/dev/dri/renderD128", "/dev/dri/card1", "/dev/dri/renderD129"]),
    ] {
        let edits =
            request(&root, &GpuRequest { driver: driver.into(), ..all() }, &image(&[]), false).unwrap();
        assert_eq!(paths(&edits), want, "{driver}");
    }
    let everything = request(&root, &by_ids(&["all"]), &image(&[]), false).unwrap();
    assert_eq!(everything, request(&root, &all(), &image(&[]), false).unwrap());
    assert!(request(&root, &GpuRequest { driver: "nvidia".into(), ..all() }, &image(&[]), false).is_err());
    let edits = by_name(&root, "amd.com/gpu", "0", &image(&[])).unwrap().unwrap();
    assert_eq!(paths(&edits)[0], "/dev/kfd");
    assert!(by_name(&root, "amd.com/gpu", "1", &image(&[])).unwrap().is_none());
    assert!(by_name(&root, "nvidia.com/gpu", "all", &image(&[])).unwrap().is_none());
    let vendors: Vec<_> = list(&root).0.into_iter().map(|gpu| gpu.vendor).collect();
    assert_eq!(vendors, ["intel", "amd"]);
}

/// Where a real driver is, it is looked at; the test says which it was.
#[test]
#[allow(clippy::print_stdout)] // which GPU it was
fn the_gpu_of_this_machine() {
    let root = HostRoot::system();
    let (found, damage) = list(&root);
    if found.is_empty() && damage.is_empty() {
        println!("skipped: this machine has no GPU");
        return;
    }
    println!("GPUs of this machine: {found:?} {damage:?}");
    if found.iter().any(|gpu| gpu.vendor == "nvidia") {
        let edits = request(&root, &all(), &image(&[]), false).unwrap();
        assert!(edits.libraries.iter().any(|l| l.soname == "libcuda.so.1"));
    }
}
