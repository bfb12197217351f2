//! The report of space after a build: what its layers take, and what of that is wasted, with the line
//! to blame.

use robot_env_build::MadeLayer;
use robot_env_diag::{Escaped, Result};
use robot_env_layer::LayerSpace;
use robot_env_oci::{ChainId, Platform};
use robot_env_store::Store;

use super::text::cut;
use crate::commands::image_layers::{measure, shown};
use crate::format::human;

/// Less waste than this is not worth a word, in bytes.
const LEAST: u64 = 100_000;
/// How many layers, and how much waste, is told of.
const MOST: usize = 8;
/// How wide an instruction is shown.
const WIDE: usize = 60;

/// What layers take that a build made or found made, the lowest first.
pub(super) struct Space<'a> {
    layers: Vec<(&'a MadeLayer, LayerSpace)>,
    /// The Dockerfile's text.
    text: &'a str,
}

impl<'a> Space<'a> {
    pub(super) fn measure(store: &Store, layers: &'a [MadeLayer], text: &'a str) -> Result<Space<'a>> {
        let chains: Vec<ChainId> = layers.iter().map(|layer| layer.chain.clone()).collect();
        let found = measure(store, &chains, 0)?;
        Ok(Space { layers: layers.iter().zip(found).collect(), text })
    }

    fn instruction(&self, line: usize) -> String {
        let text = self.text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        cut(&Escaped(text.trim()).to_string(), WIDE)
    }

    /// What is wasted: bytes, the line to blame, what it is.
    fn waste(&self) -> Vec<(u64, usize, String)> {
        let mut all = Vec::new();
        for (layer, space) in &self.layers {
            for hidden in &space.hidden {
                let by = self.layers.get(hidden.by).map_or(0, |(layer, _)| layer.line);
                let what = if hidden.replaced { "replaced" } else { "deleted" };
                all.push((hidden.bytes, layer.line, format!("{}, {what} by line {by}", shown(&hidden.path))));
            }
            for cache in &space.caches {
                let text = format!("/{}: {} left behind", cache.directory, cache.what);
                all.push((cache.bytes, layer.line, text));
            }
        }
        all.retain(|(bytes, ..)| *bytes >= LEAST);
        all.sort_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
        all
    }

    /// A few lines for a person; `image` is how it is called by then, if it is kept, `platform` what it is
    /// for, where that are several.
    pub(super) fn text(&self, image: Option<&str>, platform: Option<&Platform>) -> String {
        let layers: Vec<_> = self.layers.iter().filter(|(_, space)| space.files > 0).collect();
        if layers.is_empty() {
            return String::new();
        }
        let bytes: u64 = layers.iter().map(|(_, space)| space.bytes).sum();
        let platform = platform.map(|platform| format!(" for {platform}")).unwrap_or_default();
        let (all, number) = (human::short(bytes), count(layers.len(), "layer"));
        let mut out = format!("\n{all} in {number} of this Dockerfile{platform}:\n");
        let mut sizes: Vec<u64> = layers.iter().map(|(_, space)| space.bytes).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let least = sizes.get(MOST - 1).copied().unwrap_or(0);
        let mut told = 0;
        for (layer, space) in layers.iter().filter(|(_, space)| space.bytes >= least).take(MOST) {
            let line = self.instruction(layer.line);
            out.push_str(&format!(" {:>8}  line {:<4} {line}\n", human::short(space.bytes), layer.line));
            told += 1;
        }
        if told < layers.len() {
            out.push_str(&format!(" {:>8}  {} with less\n", "", count(layers.len() - told, "layer")));
        }
        let waste = self.waste();
        if !waste.is_empty() {
            let sum: u64 = waste.iter().map(|(bytes, ..)| bytes).sum();
            out.push_str(&format!("{} of it for nothing:\n", human::short(sum)));
            for (bytes, line, what) in waste.iter().take(MOST) {
                out.push_str(&format!(" {:>8}  line {line:<4} {what}\n", human::short(*bytes)));
            }
            if waste.len() > MOST {
                out.push_str(&format!(" {:>8}  {} more\n", "", waste.len() - MOST));
            }
            if let Some(image) = image {
                out.push_str(&format!("`image layers {image}` shows all of it\n"));
            }
        }
        out
    }

    /// The same for a program.
    pub(super) fn object(&self, platform: Option<&Platform>) -> serde_json::Value {
        let layers: Vec<serde_json::Value> = self
            .layers
            .iter()
            .map(|(layer, space)| {
                serde_json::json!({
                    "line": layer.line, "size": space.bytes, "files": space.files, "wasted": space.wasted,
                })
            })
            .collect();
        let waste: Vec<serde_json::Value> = self
            .waste()
            .into_iter()
            .map(|(bytes, line, what)| serde_json::json!({ "line": line, "size": bytes, "what": what }))
            .collect();
        let mut space = serde_json::json!({ "layers": layers, "waste": waste });
        if let Some(platform) = platform {
            space["platform"] = platform.to_string().into();
        }
        serde_json::json!({ "space": space })
    }
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests {
    use robot_env_layer::{Cache, Hidden};
    use robot_env_oci::Digest;

    use super::*;

    #[test]
    fn the_line_to_blame_is_named() {
        let made = |line: usize| MadeLayer { chain: ChainId(Digest::of(&[line as u8])), line };
        let layers = [made(2), made(3), made(4)];
        let text = "FROM a\nRUN make \\\n  all\nRUN rm /big\n";
        let spaces = [
            LayerSpace {
                bytes: 5_000_000,
                files: 3,
                wasted: 3_000_000,
                hidden: vec![Hidden { path: b"/big\x1b".to_vec(), bytes: 3_000_000, by: 2, replaced: false }],
                caches: vec![
                    Cache { directory: "var/lib/apt/lists", what: "lists of apt", bytes: 1_000_000 },
                    Cache { directory: "tmp", what: "temporary files", bytes: 10 },
                ],
                ..LayerSpace::default()
            },
            LayerSpace { bytes: 10, files: 1, ..LayerSpace::default() },
            LayerSpace::default(),
        ];
        let space = Space { layers: layers.iter().zip(spaces).collect(), text };
        assert_eq!(
            space.text(Some("robot"), None),
            "\n5MB in 2 layers of this Dockerfile:\n      5MB  line 2    RUN make \\\n      10B  line 3    all\n\
             4MB of it for nothing:\n      3MB  line 2    /big?, deleted by line 4\n      \
             1MB  line 2    /var/lib/apt/lists: lists of apt left behind\n`image layers robot` shows all of it\n"
        );
        let platform: Platform = "linux/arm64".parse().unwrap();
        let text_of_one = space.text(None, Some(&platform));
        assert!(text_of_one.starts_with("\n5MB in 2 layers of this Dockerfile for linux/arm64:\n"));
        assert!(!text_of_one.contains("image layers"), "{text_of_one}");
        let object = space.object(Some(&platform)).to_string();
        assert!(object.contains(r#""line":2,"size":5000000"#), "{object}");
        assert!(object.contains(r#""platform":"linux/arm64""#), "{object}");
        assert_eq!(Space { layers: Vec::new(), text }.text(Some("x"), None), "");
    }
}
