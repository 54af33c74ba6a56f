"""What training and tests are really fed, and what the datasets hold, as pictures and a page."""

from jaxvid.data.viewing.report import view as view
