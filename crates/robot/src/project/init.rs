//! A good first `robot-env.toml`.

use std::fs;
use std::path::Path;

use super::Surroundings;

/// What a directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workspace {
    /// A ROS 1 workspace or package.
    Ros1 {
        /// `noetic`.
        distribution: String,
    },
    /// A ROS 2 workspace or package.
    Ros2 {
        /// `humble`.
        distribution: String,
    },
    /// Anything else.
    Plain,
}

const ROS1: [&str; 3] = ["kinetic", "melodic", "noetic"];

/// What `directory` is, by its `package.xml` files, at most three directories deep.
pub fn recognise(directory: &Path, around: &Surroundings) -> Workspace {
    let mut kinds = Vec::new();
    packages(directory, 3, &mut kinds);
    let named = around.environment.get("ROS_DISTRO").filter(|name| !name.is_empty()).cloned();
    let is_ros1 = match named.as_deref() {
        Some(name) if !kinds.is_empty() => ROS1.contains(&name),
        _ => {
            kinds.iter().any(|text| text.contains("catkin"))
                && !kinds.iter().any(|text| text.contains("ament_"))
        }
    };
    match (kinds.is_empty(), is_ros1) {
        (true, _) => Workspace::Plain,
        (false, true) => Workspace::Ros1 { distribution: named.unwrap_or_else(|| "noetic".into()) },
        (false, false) => Workspace::Ros2 { distribution: named.unwrap_or_else(|| "jazzy".into()) },
    }
}

fn packages(directory: &Path, depth: usize, out: &mut Vec<String>) {
    if let Ok(text) = fs::read_to_string(directory.join("package.xml")) {
        out.push(text);
        return;
    }
    if depth == 0 {
        return;
    }
    let mut below: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')))
        .collect();
    below.sort();
    below.iter().take(200).for_each(|path| packages(path, depth - 1, out));
}

impl Workspace {
    /// The image that suits it.
    pub fn image(&self) -> String {
        match self {
            Workspace::Ros1 { distribution } | Workspace::Ros2 { distribution } => {
                format!("ros:{distribution}")
            }
            Workspace::Plain => "ubuntu:24.04".into(),
        }
    }

    /// The text of a `robot-env.toml` for it on a machine with or without a display.
    pub fn to_toml(&self, image: &str, around: &Surroundings) -> String {
        let display =
            ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| around.environment.contains_key(*name));
        let mut out = format!(
            "# The container of this project: `robot-env up` makes and enters it.\nimage = {image:?}\nuser-map = \"host\"\n"
        );
        if around.gpu {
            out.push_str("gpus = \"all\"\n");
        }
        if display {
            out.push_str("gui = true\n");
        }
        match self {
            Workspace::Ros1 { distribution } | Workspace::Ros2 { distribution } => {
                out.push_str("ros = true\n");
                out.push_str(&format!("shell = \"bash\"\nsetup = \"/opt/ros/{distribution}/setup.bash\"\n"));
            }
            Workspace::Plain => {}
        }
        out.push_str("\n# Devices may come and go: classes (serial, camera, input, can), usb:VID:PID, or paths.\n# devices = [\"serial\"]\n");
        out
    }
}
