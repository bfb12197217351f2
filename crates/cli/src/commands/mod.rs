//! The commands, one file each. This list is the order in which help shows them.

use crate::verb::{Entry, entry};

mod attach;
mod build;
mod builder_prune;
mod cdi;
mod commit;
mod completion;
mod config;
mod control;
mod cp;
mod device;
mod diff;
mod doctor;
mod events;
mod exec;
mod export;
mod front;
mod fsck;
mod gpu;
mod history;
mod image_inspect;
mod image_layers;
mod image_prune;
mod images;
mod import;
mod info;
mod inspect;
mod load;
mod login;
mod logout;
mod logs;
mod network;
mod port;
mod project;
mod prune;
mod ps;
mod pull;
mod push;
mod rm;
mod rmi;
mod run;
mod save;
mod search;
mod send;
mod serve;
mod setup;
mod start;
mod stats;
mod system_df;
mod system_prune;
mod tag;
mod top;
mod undo;
mod version;
mod volume;

/// Words that only stand before others.
pub(crate) const GROUPS: &[(&str, &str)] = &[
    ("builder", "Manage builds"),
    ("buildx", "Build images"),
    ("cdi", "Manage CDI devices"),
    ("config", "Show and check the configuration"),
    ("container", "Manage containers"),
    ("device", "Devices of the host and of running containers"),
    ("gpu", "Look at GPUs"),
    ("image", "Manage images"),
    ("network", "Manage networks"),
    ("system", "Manage the engine"),
    ("volume", "Manage volumes"),
];

/// Every command.
pub(crate) const ENTRIES: &[Entry] = &[
    entry::<run::Run>(),
    entry::<run::Create>(),
    entry::<start::Start>(),
    entry::<attach::Attach>(),
    entry::<exec::Exec>(),
    entry::<ps::Ps>(),
    entry::<logs::Logs>(),
    entry::<events::Events>(),
    entry::<top::Top>(),
    entry::<stats::Stats>(),
    entry::<control::Stop>(),
    entry::<control::Restart>(),
    entry::<control::Kill>(),
    entry::<control::Pause>(),
    entry::<control::Unpause>(),
    entry::<control::Wait>(),
    entry::<rm::Rm>(),
    entry::<undo::Undo>(),
    entry::<control::Rename>(),
    entry::<control::Update>(),
    entry::<port::Port>(),
    entry::<cp::Cp>(),
    entry::<diff::Diff>(),
    entry::<commit::Commit>(),
    entry::<export::Export>(),
    entry::<inspect::Inspect>(),
    entry::<inspect::ContainerInspect>(),
    entry::<build::Build>(),
    entry::<builder_prune::BuilderPrune>(),
    entry::<pull::Pull>(),
    entry::<push::Push>(),
    entry::<search::Search>(),
    entry::<images::Images>(),
    entry::<rmi::Rmi>(),
    entry::<history::History>(),
    entry::<image_inspect::ImageInspect>(),
    entry::<image_layers::ImageLayers>(),
    entry::<image_prune::ImagePrune>(),
    entry::<tag::Tag>(),
    entry::<save::Save>(),
    entry::<load::Load>(),
    entry::<send::Send>(),
    entry::<send::ContainerSend>(),
    entry::<import::Import>(),
    entry::<login::Login>(),
    entry::<logout::Logout>(),
    entry::<prune::ContainerPrune>(),
    entry::<network::NetworkCreate>(),
    entry::<network::NetworkLs>(),
    entry::<network::NetworkInspect>(),
    entry::<network::NetworkRm>(),
    entry::<network::NetworkPrune>(),
    entry::<network::NetworkConnect>(),
    entry::<network::NetworkDisconnect>(),
    entry::<network::NetworkReload>(),
    entry::<volume::VolumeCreate>(),
    entry::<volume::VolumeLs>(),
    entry::<volume::VolumeInspect>(),
    entry::<volume::VolumeRm>(),
    entry::<volume::VolumePrune>(),
    entry::<device::DeviceLs>(),
    entry::<device::DeviceAttach>(),
    entry::<device::DeviceDetach>(),
    entry::<gpu::GpuLs>(),
    entry::<cdi::CdiLs>(),
    entry::<cdi::CdiGenerate>(),
    entry::<cdi::CdiHook>(),
    entry::<system_df::SystemDf>(),
    entry::<system_prune::SystemPrune>(),
    entry::<fsck::SystemFsck>(),
    entry::<project::Up>(),
    entry::<project::Enter>(),
    entry::<project::Down>(),
    entry::<project::Status>(),
    entry::<project::Init>(),
    entry::<project::Code>(),
    entry::<doctor::Doctor>(),
    entry::<setup::Setup>(),
    entry::<config::ConfigShow>(),
    entry::<config::ConfigCheck>(),
    entry::<serve::Serve>(),
    entry::<info::Info>(),
    entry::<version::Version>(),
    entry::<completion::Completion>(),
];
