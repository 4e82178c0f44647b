//! A back end: answers each quotation request, and logs it as the article shows.

use std::net::UdpSocket;

use crate::args::Args;
use crate::message::{MAX_LEN, Message};
use crate::operator::Operator;
use crate::{Exit, describe};

const USAGE: &str = "usage: BACK_END -h HOST -p PORT
Answers quotation requests on UDP HOST:PORT until it is stopped.
example: RingBellBE -h 10.77.0.1 -p 9001";

/// Price of a company whose quotation the article tells.
const ERICSSON: u32 = 83;

/// Runs the back end of `operator`; returns only with an error.
pub fn run(operator: Operator, args: impl IntoIterator<Item = String>) -> Result<(), Exit> {
    let args = Args::parse(USAGE, &["-h", "-p"], &[], args)?;
    let address = args.address("-h", "-p")?;
    let socket = UdpSocket::bind(address).map_err(|error| {
        Exit::new(
            1,
            format!(
                "{}: cannot bind {address}: {}",
                operator.brand(),
                describe(&error)
            ),
        )
    })?;
    operator.log(&format!(": bind on {address}"));
    let mut buffer = [0; MAX_LEN];
    loop {
        let (len, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) => {
                operator.log(&format!(" backend : cannot receive: {}", describe(&error)));
                continue;
            }
        };
        let Some(Message::Request { id, company }) = Message::parse(&buffer[..len]) else {
            continue;
        };
        operator.log(&format!(
            " backend : processing quotation request for {company}"
        ));
        let price = quotation(&company);
        operator.log(&format!(" backend : quotation for {company} is {price}"));
        let answer = Message::Quote { id, price, company };
        if let Err(error) = socket.send_to(answer.to_string().as_bytes(), from) {
            operator.log(&format!(
                " backend : cannot answer {from}: {}",
                describe(&error)
            ));
        }
    }
}

/// The quotation of a company: the article's for Ericsson, a constant one for every other name.
fn quotation(company: &str) -> u32 {
    if company == "Ericsson" {
        return ERICSSON;
    }
    10 + company.bytes().fold(0u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    }) % 190
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotations_are_constant() {
        assert_eq!(quotation("Ericsson"), 83);
        assert_eq!(quotation("Another"), quotation("Another"));
    }
}
