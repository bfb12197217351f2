//! What tests need and no user: temporary directories, images, and a registry in the process.
//!
//! It deliberately uses none of the code that it helps to test, except the nouns of `oci`.

pub mod temporary;
