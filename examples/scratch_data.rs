//! scratch
use trunkline::training::dataset::*;
fn main() {
    for path in std::env::args().skip(1) {
        let family: DatasetFamily = if path.contains("/ner/") {
            DatasetFamily::Ner
        } else if path.contains("/pairs/") {
            DatasetFamily::Pairs
        } else {
            DatasetFamily::Classify
        };
        let bytes = std::fs::read(&path).unwrap();
        let t = std::time::Instant::now();
        match read(family, &bytes, &[], 128) {
            Err(e) => println!("REFUSED {path}: {e}"),
            Ok((report, split)) => {
                let ms = t.elapsed().as_millis();
                if let Some(split) = &split {
                    let again = Split::from_jsonl(family, &split.to_jsonl()).unwrap();
                    assert!(again == *split, "round trip {path}");
                }
                println!(
                    "{} {path} {ms} ms rows {} words {} labels {}",
                    if split.is_some() { "ok" } else { "ERRORS" },
                    report.rows,
                    report.tokens,
                    report.labels.len()
                );
                for f in report.errors.iter().chain(&report.warnings) {
                    println!("    {}", f.to_string().chars().take(260).collect::<String>());
                }
            }
        }
    }
}
