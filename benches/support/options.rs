//! A benchmark's options on the command line.

/// Calls `take` with each option and its value; it says whether there is such an option.
pub(crate) fn each(
    mut take: impl FnMut(&str, &str) -> Result<bool, Box<dyn std::error::Error>>,
) -> Result<(), Box<dyn std::error::Error>> {
    // What cargo says to every benchmark.
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        if !take(&word, &value).map_err(|error| format!("{word} {value}: {error}"))? {
            return Err(format!("unknown option {word} {value}").into());
        }
    }
    Ok(())
}
