//! Appendix B of the contract, word for word and without any bound, for the model to be compared with.

use std::collections::HashMap;

use proptest::prelude::*;

use crate::drain::Drain;
use crate::drain_tokens::{Tokens, looks_like_data};

const WILDCARD: &str = "<_>";

#[derive(Default)]
struct Node {
    children: HashMap<String, Node>,
    clusters: Vec<usize>,
}

#[derive(Default)]
struct Reference {
    roots: HashMap<usize, Node>,
    clusters: Vec<Vec<String>>,
}

impl Reference {
    fn train(&mut self, name: &str) -> String {
        let Ok(tokens) = Tokens::cut(name) else {
            return name.to_owned();
        };
        let mut tokens: Vec<String> = tokens.iter().map(str::to_owned).collect();
        tokens.push("<END>".to_owned());
        let levels = (tokens.len() - 1).min(27);
        if let Some(index) = self.search(&tokens, levels) {
            let cluster = &mut self.clusters[index];
            for (own, token) in cluster.iter_mut().zip(&tokens) {
                if own != token {
                    WILDCARD.clone_into(own);
                }
            }
            return cluster[..cluster.len() - 1].concat();
        }
        let mut node = self.roots.entry(tokens.len()).or_default();
        for token in &tokens[..levels] {
            let is_wild = looks_like_data(token) || node.children.len() >= 999;
            let key = if is_wild { WILDCARD } else { token };
            node = node.children.entry(key.to_owned()).or_default();
        }
        node.clusters.push(self.clusters.len());
        self.clusters.push(tokens);
        name.to_owned()
    }

    fn search(&self, tokens: &[String], levels: usize) -> Option<usize> {
        let mut node = self.roots.get(&tokens.len())?;
        for token in &tokens[..levels] {
            node = node.children.get(WILDCARD).or_else(|| node.children.get(token))?;
        }
        let mut best: Option<(f64, usize, usize)> = None;
        for index in &node.clusters {
            let cluster = &self.clusters[*index];
            let equal = cluster
                .iter()
                .zip(tokens)
                .filter(|(own, token)| own == token)
                .count();
            let wildcards = cluster.iter().filter(|own| *own == WILDCARD).count();
            let similarity = equal as f64 / tokens.len() as f64;
            if best.is_none_or(|(other, more, _)| (similarity, wildcards) > (other, more)) {
                best = Some((similarity, wildcards, *index));
            }
        }
        best.filter(|(similarity, ..)| *similarity >= 0.3)
            .map(|(.., index)| index)
    }
}

fn compare(names: &[String]) {
    let (mut reference, mut drain) = (Reference::default(), Drain::new(100_000, 7));
    for name in names {
        let expected = reference.train(name);
        assert_eq!(drain.train(name).pattern.unwrap_or(name), expected, "{name:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_model_gives_what_the_appendix_gives_for_routes(
        names in prop::collection::vec("(GET|PUT) (/(users|orders|me|a|1|22|x33)){1,4}", 1..60),
    ) {
        compare(&names);
    }

    #[test]
    fn the_model_gives_what_the_appendix_gives_for_names_that_share_leaves(
        names in prop::collection::vec("(%[12][1234]){2,5}|(/|%11|%12|x|y){26,34}", 1..90),
    ) {
        compare(&names);
    }
}

#[test]
fn the_model_gives_what_the_appendix_gives_for_more_words_than_a_node_has_children() {
    let word = |index: usize| {
        let letter = |shift: usize| char::from(b'g' + (index >> shift & 15) as u8);
        format!("{}{}{}", letter(8), letter(4), letter(0))
    };
    let names: Vec<String> = (0..1_010)
        .chain(0..20)
        .map(|index| format!("{} {}", word(index), ["run", "stop"][index % 2]))
        .collect();
    compare(&names);
}
