//! Further processes in containers.

use serde::{Deserialize, Serialize};

/// What `POST /containers/{id}/exec` makes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)] // the names are Docker's
pub struct ExecConfig {
    #[serde(deserialize_with = "crate::null_default")]
    pub user: String,
    #[serde(deserialize_with = "crate::null_default")]
    pub privileged: bool,
    #[serde(deserialize_with = "crate::null_default")]
    pub tty: bool,
    pub console_size: Option<[u32; 2]>,
    #[serde(deserialize_with = "crate::null_default")]
    pub attach_stdin: bool,
    #[serde(deserialize_with = "crate::null_default")]
    pub attach_stderr: bool,
    #[serde(deserialize_with = "crate::null_default")]
    pub attach_stdout: bool,
    pub detach_keys: Option<String>,
    pub env: Option<Vec<String>>,
    #[serde(deserialize_with = "crate::null_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "crate::null_default")]
    pub cmd: Vec<String>,
}

/// How `POST /exec/{id}/start` starts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)] // the names are Docker's
pub struct ExecStart {
    #[serde(deserialize_with = "crate::null_default")]
    pub detach: bool,
    #[serde(deserialize_with = "crate::null_default")]
    pub tty: bool,
    pub console_size: Option<[u32; 2]>,
}

/// The process of an exec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // the names are Docker's
pub struct ExecProcess {
    pub tty: bool,
    pub entrypoint: String,
    pub arguments: Vec<String>,
    pub privileged: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
}

/// An exec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)] // the names are Docker's
pub struct ExecInspect {
    #[serde(rename = "ID")]
    pub id: String,
    pub running: bool,
    pub exit_code: Option<i32>,
    pub process_config: ExecProcess,
    pub open_stdin: bool,
    pub open_stderr: bool,
    pub open_stdout: bool,
    pub can_remove: bool,
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    pub detach_keys: String,
    pub pid: i32,
}
