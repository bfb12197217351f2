//! Archives of images and of file systems: load, save, import, commit.

mod commit;
mod hostile;
mod import;
mod load;
mod place;
mod save;
