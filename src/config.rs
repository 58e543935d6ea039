//! What was typed, and what it means; limits named once and asserted against each other.
