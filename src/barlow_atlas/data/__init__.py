"""The one owner of data sets: facts, official files, preparation, loading, selection."""
