// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Shows that the policies in the documentation are policies: each XML block of docs/dsp.md parses and compiles, a
//! bare rule within a document that declares what the page declares. Its expectations are met by the example that they
//! are about.

use dsi_engine::image::Image;
use dsp_schema::foresight::{Compiled, Verdict};
use dsp_schema::{CompileInput, compile, parse};

#[test]
fn every_policy_of_the_documentation_compiles() {
    let page = include_str!("../../docs/dsp.md");
    let mut blocks = 0;
    for block in page.split("```xml\n").skip(1) {
        let block = block.split("```").next().unwrap_or("");
        let text = if block.starts_with("<DSP") {
            block.to_owned()
        } else {
            format!(
                "<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\"><contexts><context ScID=\"10\" name=\"phonemania\"/>\
                 <context ScID=\"20\" name=\"ringbell\"/></contexts><nodes><node SnID=\"1\" name=\"munster\"/></nodes>\
                 <rules>{block}</rules></DSP>"
            )
        };
        let dsp = parse("docs/dsp.md", text.as_bytes())
            .unwrap_or_else(|faults| panic!("{faults}\nin\n{block}"));
        let image = compile(
            &dsp,
            &CompileInput {
                cluster_uuid: [1; 16],
                version: 1,
            },
        )
        .unwrap();
        Image::validate(&image).unwrap();
        blocks += 1;
    }
    assert!(blocks >= 6, "only {blocks} blocks found");
}

#[test]
fn the_expectations_of_the_documentation_are_met() {
    let page = include_str!("../../docs/dsp.md");
    let block = page
        .split("```expect\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let example = include_bytes!("../examples/outside.xml");
    let policy = Compiled::new(parse("outside.xml", example).unwrap()).unwrap();
    let expectations = policy
        .expectations("docs/dsp.md", block.as_bytes())
        .unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(expectations.len(), 6);
    for expectation in expectations {
        let met = if expectation.allowed {
            Verdict::Allowed
        } else {
            Verdict::Denied
        };
        assert_eq!(
            policy.answer(&expectation.question).verdict(),
            met,
            "{}",
            expectation.text
        );
    }
}
