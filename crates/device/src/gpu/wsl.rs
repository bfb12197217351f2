//! Windows' GPU in the Windows Subsystem for Linux: one node, and a directory of libraries.

use robot_env_diag::{Error, Result};

use super::nvidia::real_source;
use crate::edits::{Library, SpecEdits, bind};
use crate::elf::Elf;
use crate::root::HostRoot;

/// The GPU's node.
pub(super) const NODE: &str = "/dev/dxg";
const PLACE: &str = "/usr/lib/wsl";

/// The node, Windows' libraries, and `nvidia-smi` on the path.
pub(super) fn edits(root: &HostRoot) -> Result<SpecEdits> {
    let mut out = SpecEdits::default();
    root.device(NODE).into_iter().for_each(|device| out.add_device(device));
    let directory = format!("{PLACE}/lib");
    if !root.is_directory(&directory) {
        return Err(Error::not_found("the GPU's libraries are not there")
            .because(Error::not_found(format!("`{}` does not exist", root.real(&directory).display())))
            .with_hint("install the GPU's driver in Windows, and update WSL with `wsl --update`"));
    }
    out.mounts.push(bind(real_source(root, PLACE), PLACE, true));
    for name in root.names(&directory) {
        let path = format!("{directory}/{name}");
        let Some(elf) = root.resolve(&path).and_then(|real| Elf::read(&root.real(&real))) else { continue };
        // Programs have no name of their own.
        if name.starts_with("lib")
            && let Some(flags) = elf.cache_flags()
        {
            out.libraries.push(Library {
                soname: elf.soname.unwrap_or_else(|| name.clone()),
                path: path.clone(),
                flags,
            });
            // Windows' files have names that are not those that programs ask for.
            if name == "libcuda.so.1.1" || name == "libcuda.so.1" {
                out.libraries.push(Library { soname: "libcuda.so.1".into(), path, flags });
            }
        }
    }
    if root.exists(&format!("{directory}/nvidia-smi")) {
        out.add_link("/usr/bin/nvidia-smi", format!("{directory}/nvidia-smi"));
    }
    let mut seen = Vec::new();
    out.libraries.retain(|library| {
        let new = !seen.contains(library);
        seen.push(library.clone());
        new
    });
    Ok(out)
}
