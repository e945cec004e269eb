"""Networks: torch in, torch out. They know neither files nor Lhotse nor k2."""
