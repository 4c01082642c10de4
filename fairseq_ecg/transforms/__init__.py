"""Signal processing that keeps the unit (millivolts) and says what it does to the rate."""
