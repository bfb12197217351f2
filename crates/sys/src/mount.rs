//! The new mount API with its fall-backs: detached mounts, overlay, binds, attributes.
