use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use clap::Args;
use robot_env_diag::Result;
use robot_env_layer::{LayerSpace, Overlay, space};
use robot_env_oci::{ChainId, ImageConfig};
use robot_env_store::{ImageRecord, OverlayXattr, Store};

use crate::app::App;
use crate::format::{Column, List, Style, Value, human};
use crate::rows::ellipsis;
use crate::verb::{Exit, Verb};

/// Show what each layer of an image adds, and what later layers waste of it
#[derive(Args)]
pub(crate) struct ImageLayers {
    /// How many of the biggest files of each layer are shown
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    biggest: usize,
    /// json, `table`, `table TEMPLATE`, or a Go template; without it, a tree
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not cut long texts
    #[arg(long)]
    no_trunc: bool,
    /// The image
    #[arg(value_name = "IMAGE")]
    image: String,
}

const COLUMNS: &[Column] = &[
    ("Number", "LAYER"),
    ("ID", "ID"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Files", "FILES"),
    ("Wasted", "WASTED"),
    ("Hidden", "HIDDEN"),
    ("Caches", "CACHES"),
    ("Biggest", "BIGGEST"),
];

const TABLE: &str = "{{.Number}}\t{{.Size}}\t{{.Wasted}}\t{{.Files}}\t{{.CreatedBy}}";

/// How many lost files, and how many caches, a layer of the tree shows.
const SHOWN: usize = 5;

impl Verb for ImageLayers {
    const SPELLINGS: &'static [&'static str] = &["image layers"];

    fn run(self, app: &App) -> Result<Exit> {
        let style = self.format.as_deref().map(|format| Style::parse(Some(format), TABLE)).transpose()?;
        let store = app.store_with(&self.image)?;
        let record = App::find_image(&store, &self.image)?;
        let config = store.config(&record.id)?;
        let found = measure(&store, &record.layers, self.biggest)?;
        let steps = steps(config.value(), found.len());
        let layers: Vec<Layer<'_>> = found
            .iter()
            .zip(&record.layers)
            .zip(&steps)
            .map(|((space, chain), step)| Layer { space, chain, step })
            .collect();
        let text = match style {
            None => tree(&self.image, &record, &layers, !self.no_trunc),
            Some(style) => {
                let cut = matches!(style, Style::Table(_)) && !self.no_trunc;
                let exact = matches!(style, Style::Json);
                let rows = layers.iter().enumerate().map(|(at, layer)| row(at, layer, &layers, cut, exact));
                List { columns: COLUMNS, rows: rows.collect() }.print(&style)?
            }
        };
        app.print(&text)?;
        Ok(Exit::SUCCESS)
    }
}

/// A layer with the step that made it.
struct Layer<'a> {
    space: &'a LayerSpace,
    chain: &'a ChainId,
    step: &'a str,
}

/// What layers take, the lowest first, with the `biggest` largest files of each.
pub(super) fn measure(store: &Store, layers: &[ChainId], biggest: usize) -> Result<Vec<LayerSpace>> {
    let trees: Vec<OwnedFd> = layers.iter().map(|chain| store.layer_dir(chain)).collect::<Result<_>>()?;
    let trees: Vec<BorrowedFd<'_>> = trees.iter().map(AsFd::as_fd).collect();
    let namespace = match store.overlay_xattr() {
        OverlayXattr::Trusted => Overlay::Trusted,
        OverlayXattr::User => Overlay::User,
    };
    space(&trees, namespace, biggest)
}

/// What the history says of each layer, in its words; `""` for one that it doesn't tell of.
fn steps(config: &ImageConfig, count: usize) -> Vec<String> {
    let told = config.history.iter().filter(|step| !step.empty_layer);
    let mut steps: Vec<String> = told.map(|step| step_text(&step.created_by)).take(count).collect();
    steps.resize(count, String::new());
    steps
}

/// A step without what builders put around it: shells, marks, the names of arguments.
fn step_text(created_by: &str) -> String {
    let text = created_by.strip_suffix("# buildkit").unwrap_or(created_by).trim();
    let text = match text.strip_prefix("/bin/sh -c #(nop)") {
        Some(rest) => rest.trim().to_owned(),
        None => text.replacen("RUN /bin/sh -c ", "RUN ", 1).replacen("/bin/sh -c ", "RUN ", 1),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A path for a person.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn plain(text: &str, cut: bool) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if cut { ellipsis(&text, 72) } else { text }
}

fn tree(image: &str, record: &ImageRecord, layers: &[Layer<'_>], cut: bool) -> String {
    let sum = |of: fn(&LayerSpace) -> u64| layers.iter().map(|layer| of(layer.space)).sum::<u64>();
    let (bytes, wasted) = (sum(|layer| layer.bytes), sum(|layer| layer.wasted));
    let count = match layers.len() {
        1 => "1 layer".to_owned(),
        n => format!("{n} layers"),
    };
    let id = record.id.to_string();
    let mut out = format!("{} {}: {} in {count}", plain(image, false), short(&id), human::short(bytes));
    if wasted > 0 {
        out.push_str(&format!(", {} of it wasted", human::short(wasted)));
    }
    out.push('\n');
    for (at, layer) in layers.iter().enumerate() {
        let last = at + 1 == layers.len();
        let (branch, stem) = if last { ("└─", "  ") } else { ("├─", "│ ") };
        let step = if layer.step.is_empty() { "(no history)" } else { layer.step };
        let size = human::short(layer.space.bytes);
        out.push_str(&format!("{branch} {at} {size:>7}  {}\n", plain(step, cut)));
        for line in details(layer.space, layers, cut) {
            out.push_str(&format!("{stem}      {line}\n"));
        }
    }
    out
}

fn short(id: &str) -> &str {
    id.strip_prefix("sha256:").and_then(|hex| hex.get(..12)).unwrap_or(id)
}

fn details(space: &LayerSpace, layers: &[Layer<'_>], cut: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for hidden in space.hidden.iter().take(SHOWN) {
        let what = if hidden.replaced { "replaced" } else { "deleted" };
        let step = layers.get(hidden.by).map_or("", |layer| layer.step);
        let by = if cut { ellipsis(step, 40) } else { step.to_owned() };
        lines.push(format!(
            "{:>7}  wasted: {}, {what} by layer {}: {}",
            human::short(hidden.bytes),
            shown(&hidden.path),
            hidden.by,
            plain(&by, false)
        ));
    }
    if space.hidden.len() > SHOWN {
        let rest: u64 = space.hidden[SHOWN..].iter().map(|hidden| hidden.bytes).sum();
        let count = space.hidden.len() - SHOWN;
        lines.push(format!("{:>7}  wasted: {count} more", human::short(rest)));
    }
    for cache in space.caches.iter().take(SHOWN) {
        lines.push(format!(
            "{:>7}  left behind: /{} ({})",
            human::short(cache.bytes),
            cache.directory,
            cache.what
        ));
    }
    for (path, bytes) in &space.biggest {
        lines.push(format!("{:>7}  {}", human::short(*bytes), shown(path)));
    }
    lines
}

fn row(at: usize, layer: &Layer<'_>, layers: &[Layer<'_>], cut: bool, exact: bool) -> Value {
    let space = layer.space;
    let size =
        |bytes: u64| -> Value { if exact { Value::Int(bytes as i64) } else { human::short(bytes).into() } };
    let count = |number: usize| Value::Int(number as i64);
    let hidden = space.hidden.iter().map(|hidden| {
        Value::row([
            ("Path", shown(&hidden.path).into()),
            ("Size", size(hidden.bytes)),
            ("By", count(hidden.by)),
            ("ByStep", layers.get(hidden.by).map_or("", |layer| layer.step).into()),
            ("Replaced", Value::Bool(hidden.replaced)),
        ])
    });
    let caches = space.caches.iter().map(|cache| {
        Value::row([
            ("Directory", format!("/{}", cache.directory).into()),
            ("What", cache.what.into()),
            ("Size", size(cache.bytes)),
        ])
    });
    let biggest = space
        .biggest
        .iter()
        .map(|(path, bytes)| Value::row([("Path", shown(path).into()), ("Size", size(*bytes))]));
    Value::row([
        ("Number", count(at)),
        ("ID", if cut { short(&layer.chain.to_string()).into() } else { layer.chain.to_string().into() }),
        ("CreatedBy", plain(layer.step, cut).into()),
        ("Size", size(space.bytes)),
        ("Files", Value::Int(space.files as i64)),
        ("Wasted", size(space.wasted)),
        ("Hidden", Value::List(hidden.collect())),
        ("Caches", Value::List(caches.collect())),
        ("Biggest", Value::List(biggest.collect())),
    ])
}

#[cfg(test)]
mod tests {
    use robot_env_layer::{Cache, Hidden};
    use robot_env_oci::{Digest, ImageId};

    use super::*;

    #[test]
    fn steps_read_as_they_were_written() {
        for (text, want) in [
            ("RUN /bin/sh -c apt-get update # buildkit", "RUN apt-get update"),
            ("/bin/sh -c #(nop) ADD file:1 in / ", "ADD file:1 in /"),
            ("/bin/sh -c make   all", "RUN make all"),
            ("COPY a b # buildkit", "COPY a b"),
            ("RUN |1 A=b /bin/sh -c echo", "RUN |1 A=b RUN echo"),
            ("", ""),
        ] {
            assert_eq!(step_text(text), want, "{text}");
        }
    }

    #[test]
    fn a_tree_names_the_step_to_blame() {
        let chain = |text: &str| ChainId(Digest::of(text.as_bytes()));
        let spaces = [
            LayerSpace {
                bytes: 3_000_000,
                files: 2,
                wasted: 1_000_000,
                hidden: vec![Hidden { path: b"/b\x1b".to_vec(), bytes: 1_000_000, by: 1, replaced: false }],
                biggest: vec![(b"/big".to_vec(), 2_000_000)],
                caches: vec![Cache { directory: "tmp", what: "temporary files", bytes: 500 }],
            },
            LayerSpace::default(),
        ];
        let chains = [chain("0"), chain("1")];
        let layers: Vec<Layer<'_>> = spaces
            .iter()
            .zip(&chains)
            .zip(["ADD x", "RUN rm b"])
            .map(|((space, chain), step)| Layer { space, chain, step })
            .collect();
        let record = ImageRecord {
            id: ImageId(Digest::of(b"")),
            manifest: None,
            layers: chains.to_vec(),
            size: 0,
            created: None,
            pulled_at: 0,
            parent: None,
            origin: String::new(),
        };
        assert_eq!(
            tree("robot", &record, &layers, true),
            "robot e3b0c44298fc: 3MB in 2 layers, 1MB of it wasted\n\
             ├─ 0     3MB  ADD x\n\
             │           1MB  wasted: /b?, deleted by layer 1: RUN rm b\n\
             │          500B  left behind: /tmp (temporary files)\n\
             │           2MB  /big\n\
             └─ 1      0B  RUN rm b\n"
        );
        let json = row(0, &layers[0], &layers, false, true).to_json();
        assert!(json.contains(r#""Size":3000000,"Files":2,"Wasted":1000000"#), "{json}");
        assert!(json.contains(r#""By":1,"ByStep":"RUN rm b""#), "{json}");
    }
}
