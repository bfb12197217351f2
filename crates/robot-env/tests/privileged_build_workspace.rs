//! `examples/ros-workspace` in a small form: its Dockerfile as it stands, on a base whose packages are
//! stand-ins, so that nothing is downloaded. What they are called with is looked at; the whole form
//! takes hundreds of megabytes.

mod place;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use place::{Done, Place};

/// What stands for a program of Debian's: it leaves what it was asked for, as the real one would.
const PROGRAMS: &[(&str, &str)] = &[
    (
        "bin/apt-get",
        "case $1 in
         update) grep -q 'Acquire' /etc/apt/apt.conf.d/99host && echo listed >> /var/lib/apt/lists/archive ;;
         install) shift; for word; do case $word in -*) ;; *)
           test -s /var/lib/apt/lists/archive || exit 100
           test -f /var/cache/apt/$word || echo fetched >> /var/cache/apt/fetched
           echo $word > /var/cache/apt/$word; echo $word >> /installed ;; esac; done ;;
         esac",
    ),
    (
        "bin/catkin_make_isolated",
        "test \"$CMAKE_CXX_COMPILER_LAUNCHER\" = ccache && test -w \"$CCACHE_DIR\" || exit 9
         grep -q catkin /installed || exit 8
         while [ $# -gt 0 ]; do case $1 in --install-space) to=$2 ;; --build-space) build=$2 ;; esac; shift; done
         mkdir -p $to/lib $build
         for package in src/*; do
           name=${package#src/}; sum=$(cat $(find $package -type f | sort) | wc -c)
           if [ \"$(cat $build/$name 2>/dev/null)\" != $sum ]; then echo building $name; echo $sum > $build/$name; fi
           cp -r $package $to/lib/
         done
         echo 'export WORKSPACE=sourced' > $to/setup.bash",
    ),
    ("bin/pip", "echo \"$@\" > /root/.cache/pip/asked; mkdir -p /opt/cuda/nvidia/cuda_runtime/lib"),
    ("bin/useradd", "echo ros:x:1000:1000::/home/ros:/bin/bash >> /etc/passwd; mkdir -p /home/ros"),
    ("bin/ldconfig", "echo linked > /linked"),
    ("bin/bash", "exec sh \"$@\""),
    ("bin/roslaunch", "echo launched $WORKSPACE $1; ls /opt/robot/lib"),
];

/// The base: busybox with the stand-ins.
fn base(place: &Place) {
    let directory = place.directory.join("base");
    let mut text = String::from(
        "FROM busybox\nCOPY bin /bin\nRUN ln -s busybox /bin/cp; ln -s busybox /bin/sort; \
         mkdir -p /etc/apt/apt.conf.d /etc/ld.so.conf.d /var/cache/apt /var/lib/apt/lists /opt; \
         touch /etc/apt/apt.conf.d/docker-clean\n",
    );
    text.push_str("ENV PATH=/bin\n");
    fs::create_dir_all(directory.join("bin")).unwrap();
    fs::write(directory.join("Dockerfile"), text).unwrap();
    for (path, script) in PROGRAMS {
        fs::write(directory.join(path), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(directory.join(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let done = place.command(&["build", "-q", "-t", "debian12", directory.to_str().unwrap()]).run();
    assert_eq!(done.code, 0, "{}", done.err);
}

/// A copy of the example, to be changed.
fn example(place: &Place) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ros-workspace");
    let to = place.directory.join("ros-workspace");
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(&to).status().unwrap();
    assert!(copied.success());
    to
}

fn build(place: &Place, directory: &Path, words: &[&str]) -> Done {
    let conf = place.directory.join("apt.conf");
    fs::write(&conf, "Acquire::Retries \"3\";\n").unwrap();
    let secret = format!("id=apt.conf,src={}", conf.display());
    let first = ["build", "--progress", "plain", "--network", "none", "--build-arg", "BASE=debian12"];
    let all = [&first[..], &["--secret", &secret], words, &[directory.to_str().unwrap()]].concat();
    place.command(&all).run()
}

#[test]
fn privileged_the_workspace_of_the_examples_builds_and_runs() {
    let Some(place) = Place::new("build-workspace") else { return };
    base(&place);
    let directory = example(&place);
    let done = build(&place, &directory, &["-t", "robot"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(
        done.err.contains("building scan_filter") && done.err.contains("building watcher"),
        "{}",
        done.err
    );
    // Stages of CUDA are not the target's.
    assert!(!done.err.contains("pip install"), "{}", done.err);
    let launched = place.run("run --rm --network none robot").ok();
    assert_eq!(launched, "launched sourced watcher\nscan_filter\nwatcher");
    // The tools, the caches and the host's settings stay out of the image.
    let look =
        "cat /installed; ls /var/cache/apt /var/lib/apt/lists /etc/apt/apt.conf.d /workspace 2>&1; id -u";
    let found = place.command(&["run", "--rm", "--network", "none", "robot", "sh", "-c", look]).run().ok();
    assert!(found.contains("python3-rospy") && !found.contains("ccache"), "{found}");
    assert!(!found.contains("archive") && !found.contains("99host") && found.ends_with("1000"), "{found}");

    // Again, all is there. After a change of one package the other one is not built again.
    let done = build(&place, &directory, &["-t", "robot"]);
    assert!(!done.err.contains("building"), "{}", done.err);
    let script = directory.join("src/watcher/scripts/watcher.py");
    fs::write(&script, fs::read_to_string(&script).unwrap() + "# more\n").unwrap();
    let done = build(&place, &directory, &["-t", "robot"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(
        done.err.contains("building watcher") && !done.err.contains("building scan_filter"),
        "{}",
        done.err
    );

    // With CUDA: only what differs is made, and nothing is fetched that apt has.
    let done = build(&place, &directory, &["-t", "robot:cuda", "--build-arg", "CUDA=wheels"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let look = "cat /etc/ld.so.conf.d/cuda-wheels.conf /linked; echo $PYTHONPATH $NVIDIA_VISIBLE_DEVICES; ls -a /root/.cache 2>&1; true";
    let run = ["run", "--rm", "--network", "none", "--user", "0", "robot:cuda", "sh", "-c", look];
    let found = place.command(&run).run().ok();
    assert!(found.starts_with("/opt/cuda/nvidia/cuda_runtime/lib\nlinked\n/opt/cuda all"), "{found}");
    assert!(!found.contains("asked"), "{found}");
}
