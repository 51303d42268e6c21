"""Networks of recurrent layers: what goes in before them, and what comes out after them."""
