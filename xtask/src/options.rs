//! Options of tasks: all of them are numbers.

use crate::Failure;

/// Reads `--name N`, also written `--name=N`, into the number of that name, which has to be at least the one beside it.
pub(crate) fn numbers(
    task: &str,
    options: &[String],
    known: &mut [(&str, u64, &mut Option<u64>)],
) -> Result<(), Failure> {
    let mut words = options.iter().flat_map(|option| option.splitn(2, '='));
    while let Some(name) = words.next() {
        let Some((_, min, number)) = known.iter_mut().find(|(known, ..)| *known == name) else {
            return Err(format!("{task} has no option {name:?}; cargo xtask help lists them").into());
        };
        let value = words.next().and_then(|word| word.parse().ok()).filter(|value| *value >= *min);
        **number = Some(value.ok_or_else(|| format!("{name} wants a whole number of at least {min}"))?);
    }
    Ok(())
}
