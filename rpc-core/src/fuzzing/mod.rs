//! Entry points for fuzzers: one function for each reader of bytes from outside.
//!
//! Compiled for fuzzers (`--cfg fuzzing`, see `fuzz/`) and for tests, which run every seed in `fuzz/corpus`.

mod bodies;
mod messages;
mod nesting;
mod streams;

pub use self::bodies::{
    arguments_json, arguments_message_pack, arguments_plain, codec_json, codec_message_pack,
};
pub use self::messages::{batch, guard, notice, properties, reply, traceparent, url};
pub use self::streams::stream;

/// Fuzz target: takes any bytes, and panics if a promise is broken.
pub type Target = fn(&[u8]);

/// All targets, with the names of their folders in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("arguments_json", arguments_json),
    ("arguments_message_pack", arguments_message_pack),
    ("arguments_plain", arguments_plain),
    ("batch", batch),
    ("codec_json", codec_json),
    ("codec_message_pack", codec_message_pack),
    ("guard", guard),
    ("notice", notice),
    ("properties", properties),
    ("reply", reply),
    ("stream", stream),
    ("traceparent", traceparent),
    ("url", url),
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::TARGETS;

    /// The last line of the output names a seed that fails.
    #[test]
    fn every_seed_of_the_corpus_passes() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for (name, target) in TARGETS {
            let mut seeds = 0;
            for seed in fs::read_dir(corpus.join(name)).expect("each target has a folder of seeds")
            {
                let path = seed.unwrap().path();
                println!("{}", path.display());
                target(&fs::read(path).unwrap());
                seeds += 1;
            }
            assert!(seeds > 0, "{name} has no seeds");
        }
    }

    #[test]
    fn every_target_has_a_fuzzer() {
        let fuzzers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
        for (name, _) in TARGETS {
            let fuzzer = fs::read_to_string(fuzzers.join(name).with_extension("rs"));
            let fuzzer = fuzzer.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(
                fuzzer.contains(&format!("rpc_core::fuzzing::{name}")),
                "{name}"
            );
        }
    }
}
