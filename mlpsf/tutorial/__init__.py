"""The tutorial, a notebook that ``mlpsf tutorial`` copies out."""
