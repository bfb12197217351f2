//! What an ordinary user hears of devices and settings that only root can open.

mod account;

use std::fs;
use std::os::unix::fs::chown;

use account::{Account, root};

#[test]
fn privileged_a_device_that_is_closed_to_its_user_is_named() {
    let Some(user) = Account::new() else { return };
    // In place of a serial adapter whose group the user is not in.
    root("mknod", &["-m", "0660", "/mnt/closed", "c", "1", "3"]);
    account::cover("/dev/kmsg", "/mnt/closed");
    let done = user.script("--network none --device path:/dev/kmsg", "true");
    assert!(done.err.contains("this user may not open device `/dev/kmsg`"), "{done:?}");
    assert_eq!(done.code, 0, "{done:?}");
    let name = user.start("--network none --name bot", "sleep 1000");
    let done = user.run(&["device", "attach", &name, "/dev/kmsg"]);
    assert!(done.code == 1 && done.err.contains("this user may not open device `/dev/kmsg`"), "{done:?}");
    let done = user.run(&["device", "attach", &name, "/dev/zero,name=/dev/imu"]);
    assert_eq!(done.ok(), "/dev/zero\n/dev/imu");
    user.run(&["exec", &name, "ls", "/dev/imu"]).ok();
    assert_eq!(user.run(&["device", "detach", &name, "imu"]).ok(), "/dev/zero\n/dev/imu");
    user.run(&["rm", "-f", &name]).ok();
}

#[test]
fn privileged_mends_that_need_root_are_not_tried_without_it() {
    let Some(user) = Account::new() else { return };
    account::cover("/usr/bin/sudo", "/dev/null");
    account::cover("/bin/sudo", "/dev/null");
    // A new user lacks the groups of devices at least.
    let done = user.run(&["doctor", "--fix", "--offline"]);
    assert!(done.code != 0 && done.err.contains("`sudo` is not installed"), "{done:?}");
    assert!(!done.out.contains("+ sudo"), "{done:?}");
}

#[test]
fn privileged_a_devcontainer_of_a_user_writes_into_its_workspace() {
    let Some(user) = Account::new() else { return };
    let workspace = user.home.join("nav");
    fs::create_dir_all(workspace.join(".devcontainer")).unwrap();
    fs::write(
        workspace.join(".devcontainer/devcontainer.json"),
        r#"{"image": "busybox", "runArgs": ["--network=none"], "remoteUser": "robot"}"#,
    )
    .unwrap();
    chown(&workspace, Some(user.uid), Some(user.gid)).unwrap();
    let done = user.command(&["up", "touch", "made"]).current_dir(&workspace).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(workspace.join("made").exists());
    let done = user.command(&["down", "--rm"]).current_dir(&workspace).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
