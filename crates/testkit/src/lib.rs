//! What tests need and no user: temporary directories, images, and a registry in the process.
//!
//! It deliberately uses none of the code that it helps to test, except the nouns of `oci` and the
//! system calls of `sys`. It panics where a test could not go on.
//!
//! - [`temporary`]: directories that go away;
//! - [`image`]: layers and images from lists of entries;
//! - [`display`]: an X server;
//! - [`host`]: programs of this machine for images;
//! - [`hostile`]: layers that mean harm;
//! - [`registry`]: a registry on a loopback address with faults on demand;
//! - [`network`]: network namespaces with a machine in the neighbourhood;
//! - [`tls`]: a certificate authority.

pub mod display;
pub mod host;
pub mod hostile;
pub mod image;
pub mod network;
pub mod registry;
pub mod temporary;
pub mod tls;
