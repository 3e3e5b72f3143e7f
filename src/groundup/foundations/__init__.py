"""What a language model stands on, each piece small enough to be read in one sitting. numpy only."""
