//! Replays the corpus of every fuzz target, so that a finding stays fixed without a fuzzer.

#[path = "../fuzz/targets.rs"]
#[expect(unreachable_pub, reason = "the fuzzer's library shows them")]
mod targets;

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_input_of_the_corpus_is_fine() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let mut inputs: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{name} has no seeds");
        for input in inputs {
            // Shown only when the target panics.
            println!("{}", input.display());
            let data = std::fs::read(input).unwrap();
            target(&data);
            target(&[]);
        }
    }
}

#[test]
fn every_corpus_has_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let folders = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(folders.collect::<BTreeSet<String>>(), names);
}
