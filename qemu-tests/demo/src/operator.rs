//! The two operators: a name for log lines is all that tells their programs apart.

/// An operator of the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The operator whose entry point uses the other's back end.
    PhoneMania,
    /// The operator who is defrauded.
    RingBell,
}

impl Operator {
    /// The name as it stands at the head of each log line.
    pub fn brand(self) -> &'static str {
        match self {
            Self::PhoneMania => "PHONEMANIA",
            Self::RingBell => "RINGBELL",
        }
    }

    /// Prints one log line at once, whatever standard output is.
    pub fn log(self, text: &str) {
        use std::io::Write;
        let mut out = std::io::stdout().lock();
        // A log that cannot be written must not stop the service.
        let _ = writeln!(out, "{}{text}", self.brand()).and_then(|()| out.flush());
    }
}
