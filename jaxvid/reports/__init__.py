"""What measures and draws answers, and writes them down."""
