"""Mathematics: answers that Math-Verify compares."""
