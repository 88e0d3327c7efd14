//! `--worker`: answers lines on standard input, so that another program can alternate with this encoder in one run.
//!
//! `BATCH LENGTH THREADS PASSES` is answered with the seconds of one pass, when so many threads make them at once, each a
//! batch of its own. `hidden LENGTH IDS OUT` computes the sequences of `LENGTH` tokens in the file `IDS` (u32, little-endian)
//! into the file `OUT` (f32, little-endian, a row for each token) and is answered with `ok`.

use std::fs;
use std::io::{self, BufRead, Write};

use trunkline::model::Encoder;

use crate::measure::together;
use crate::pass;
use crate::texts::{Texts, pack};

pub(crate) fn serve(encoder: &Encoder, texts: &Texts) -> io::Result<()> {
    println!("ready {}", encoder.kernel_name());
    io::stdout().flush()?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["hidden", length, ids, out] => hidden(encoder, number(length), ids, out)?,
            [batch, length, threads, passes] => {
                let packed = texts.shape(number(batch), number(length));
                println!("{:.9}", together(&|| pass(encoder, &packed), number(threads), number(passes)));
            }
            _ => return Err(io::Error::other(format!("{line:?} is no request"))),
        }
        io::stdout().flush()?;
    }
    Ok(())
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

fn hidden(encoder: &Encoder, length: usize, ids: &str, out: &str) -> io::Result<()> {
    let ids: Vec<u32> =
        fs::read(ids)?.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect();
    let states = crate::states(encoder, &pack(ids.chunks(length)));
    let numbers = states.flatten_all().and_then(|states| states.to_vec1::<f32>()).map_err(io::Error::other)?;
    fs::write(out, numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
    println!("ok");
    Ok(())
}
